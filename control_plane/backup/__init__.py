"""Backup and restore of a whole control plane: local acts on its data folder, never over HTTP."""
