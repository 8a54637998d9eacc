"""Who may say what: keys, roles, the owners' repository, its verification, and signed envelopes."""
