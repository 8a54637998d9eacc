"""What arrives from devices: ingest, merge, drift, alerts."""
