"""The `shoal` command: speaks HTTP to the API, never to the store."""
