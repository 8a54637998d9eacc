"""Mergeable statistics of what models see and answer."""
