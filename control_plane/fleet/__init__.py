"""Devices, cohorts, enrolment and presence."""
