"""The HTTP API: requests in, values out; no decisions."""
