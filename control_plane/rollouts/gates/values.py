"""The gates on business values, each by its name: the mean by device, between the arms. Pure."""

from __future__ import annotations

from control_plane.rollouts.evidence import Arms
from control_plane.rollouts.gate_specs import ValueGate
from control_plane.rollouts.gates import comparison
from control_plane.rollouts.gates.question import Question
from control_plane.rollouts.model import Finding, FleetView, Rollout
from control_plane.rollouts.statistics import Arm


def name(gate: ValueGate) -> str:
    """Return the name of the gate on a value."""
    return f"value {gate.name}"


def judge(gate: ValueGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the value says since the phase began."""
    sign = 1.0 if gate.worse == "higher" else -1.0
    arms = view.evidence.value(gate.name)
    asked = Question(
        name=name(gate),
        alpha=rollout.gates.alpha_each,
        margin=gate.margin,
        words=lambda change: f"{sign * change:+.4g}",
        level=lambda mean: f"{sign * mean:.4g}",
        tau=gate.effect,
        number=lambda change: sign * change,
        level_number=lambda mean: sign * mean,
        is_non_inferiority_needed=gate.is_non_inferiority_needed,
        is_turned=gate.worse == "lower",
        limit=None if gate.limit is None else sign * gate.limit,
    )
    turned = arms if sign > 0 else Arms(_turned(arms.candidate), _turned(arms.control))
    return comparison.judge(asked, rollout, view, turned)


def _turned(arm: Arm) -> Arm:
    return arm._replace(x=-arm.x, z=-arm.z)
