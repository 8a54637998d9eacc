"""The device side of shoal: one light core, short-lived tasks, one inference worker."""
