"""From an assignment to a serving slot: lifecycle, downloads, verification, slots, probation."""
