"""The gate on errors: the share of requests failed by the model's fault, between the arms. Pure.

An agent that does not tell its failures is missing data, never a share of zero.
"""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.gate_specs import ErrorsGate
from control_plane.rollouts.gates import comparison
from control_plane.rollouts.gates.question import Question
from control_plane.rollouts.model import Finding, FleetView, Rollout

NAME: Final = "errors"


def judge(gate: ErrorsGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the requests since the phase began say."""
    asked = Question(
        name=NAME,
        alpha=rollout.gates.alpha_each,
        margin=gate.margin,
        words=lambda share: f"{share:+.2%}",
        level=lambda share: f"{share:.2%} failed",
        is_share=True,
        limit=gate.rate_max,
        is_non_inferiority_needed=gate.is_non_inferiority_needed,
        unit="requests",
    )
    return comparison.judge(asked, rollout, view, view.evidence.failed)
