"""The gate on latency: the mean of its logarithm, or a percentile, by device, between arms. Pure.

On that scale a factor is a difference, and a few slow answers do not hide all others. Percentiles
are told in bins: the width of one is granted on top of the increase, so that no two that are alike
are told apart.
"""

from __future__ import annotations

import math
from typing import Final

from control_plane.rollouts.gate_specs import LatencyGate
from control_plane.rollouts.gates import comparison
from control_plane.rollouts.gates.question import Question
from control_plane.rollouts.model import Finding, FleetView, Rollout
from control_plane.rollouts.statistics import DEVICES_MIN, OBSERVATIONS_MIN, TAU_LOG
from control_plane.telemetry.latency_bins import WIDTH_LOG

NAME: Final = "latency"
_US_PER_MS: Final = 1_000.0


def judge(gate: LatencyGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the latencies since the phase began say."""
    limit, granted, kind = gate.latency_ms_max, 0.0, ""
    if gate.percentile is not None:
        granted, kind = WIDTH_LOG, f"p{gate.percentile} "
    asked = Question(
        name=NAME,
        alpha=rollout.gates.alpha_each,
        margin=math.log1p(gate.increase_max) + granted,
        words=lambda factor: f"{math.expm1(factor):+.1%}",
        level=lambda log: f"{kind}{math.expm1(log) / _US_PER_MS:.3g} ms",
        tau=TAU_LOG,
        number=math.expm1,
        level_number=lambda log: math.expm1(log) / _US_PER_MS,
        limit=None if limit is None else math.log1p(limit * _US_PER_MS),
        observations_min=max(OBSERVATIONS_MIN, DEVICES_MIN * gate.answers_min),
        is_non_inferiority_needed=gate.is_non_inferiority_needed,
        unit="answers",
    )
    return comparison.judge(asked, rollout, view, view.evidence.latency)
