"""Topics, messages and their codec: all that devices and control plane say over MQTT."""
