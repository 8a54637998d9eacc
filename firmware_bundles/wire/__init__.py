"""Topics, messages and their codec: all that is said between devices and control plane over MQTT."""
