"""The control plane's side of MQTT: client, managed or embedded broker, access rules."""
