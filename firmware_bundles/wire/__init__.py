"""Topics and messages between device and control plane: the only place a topic string exists."""
