"""The gate on drift: on how many devices the input changed, next to the control's. Pure.

What changes for both is the world's doing, not the release's. A device has changed where its own
watch rang; the evidence is one bit a device.
"""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.gate_specs import DriftGate
from control_plane.rollouts.gates import comparison
from control_plane.rollouts.gates.question import Question
from control_plane.rollouts.model import Finding, FleetView, Rollout

NAME: Final = "drift"
TAU: Final = 0.2
"""Standard deviation of the effects: of one bit a device only large ones can be shown."""


def judge(gate: DriftGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the watches over the devices of both arms say."""
    asked = Question(
        name=NAME,
        alpha=rollout.gates.alpha_each,
        margin=gate.margin,
        words=lambda share: f"{share * 100:+.1f} points",
        level=lambda share: f"changed are {share:.1%}",
        tau=TAU,
        is_share=True,
        observations_min=1,
        limit=gate.changed_share_max,
    )
    return comparison.judge(asked, rollout, view, view.evidence.changed)
