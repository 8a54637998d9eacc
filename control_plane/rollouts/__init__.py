"""Staged rollouts: the model, the pure planner and gates, and the executor that carries plans out."""
