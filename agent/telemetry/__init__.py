"""What the device records and delivers: predictions, windows, feedback."""
