"""The inference worker: endpoint, backends, self-test, shadow; the only place of an interpreter."""
