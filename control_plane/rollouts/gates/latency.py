"""The gate on latency: the mean of its logarithm by device, between the arms. Pure.

On that scale a factor is a difference, and a few slow answers do not hide all others.
"""

from __future__ import annotations

import math
from typing import Final

from control_plane.rollouts.gate_specs import LatencyGate
from control_plane.rollouts.gates import comparison
from control_plane.rollouts.gates.comparison import Question
from control_plane.rollouts.model import Finding, FleetView, Rollout
from control_plane.rollouts.statistics import TAU_LOG

NAME: Final = "latency"
_US_PER_MS: Final = 1_000.0


def judge(gate: LatencyGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the latencies since the phase began say."""
    limit = gate.latency_ms_max
    asked = Question(
        name=NAME,
        alpha=rollout.gates.alpha_each,
        margin=math.log1p(gate.increase_max),
        words=lambda factor: f"{math.expm1(factor):+.1%}",
        level=lambda log: f"{math.expm1(log) / _US_PER_MS:.3g} ms",
        tau=TAU_LOG,
        limit=None if limit is None else math.log1p(limit * _US_PER_MS),
    )
    return comparison.judge(asked, rollout, view, view.evidence.latency)
