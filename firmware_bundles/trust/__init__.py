"""Roles, keys, the publisher and the verifier of signed metadata, and signed envelopes."""
