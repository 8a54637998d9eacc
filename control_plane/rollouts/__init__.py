"""Staged rollouts: the model, the pure planner and gates, and the executor of their plans."""
