"""The control plane's database behind ports; the only place of SQL here."""
