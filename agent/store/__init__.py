"""The device's databases and journal; the only place of SQL on the device."""
