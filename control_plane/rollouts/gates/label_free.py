"""The gate on label-free accuracy: what the devices' confidences promise, between the arms. Pure.

Each confidence counts with the share of held-out rows that were right at it (CBPE). Drift breaks
the promise, and a change of what is true is never seen: so devices whose input changed are left
out, what is known of drift always stands beside the estimate, and a phase has another gate, too.
"""

from __future__ import annotations

from typing import Final

import msgspec

from control_plane.rollouts.evidence import Promised
from control_plane.rollouts.gate_specs import LabelFreeAccuracyGate
from control_plane.rollouts.gates import comparison
from control_plane.rollouts.gates.question import Question
from control_plane.rollouts.model import Finding, FleetView, Rollout

NAME: Final = "label_free_accuracy"


def judge(gate: LabelFreeAccuracyGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the confidences since the phase began promise."""
    least = gate.accuracy_min
    asked = Question(
        name=NAME,
        alpha=rollout.gates.alpha_each,
        margin=gate.margin,
        words=lambda share: f"{share * 100:+.1f} points",
        level=lambda wrong: f"estimated errors {wrong:.1%}",
        is_share=True,
        limit=None if least is None else 1 - least,
        unit="confidences",
    )
    promised = view.evidence.promised
    found = comparison.judge(asked, rollout, view, promised.arms)
    if found.verdict is None:
        return found
    return msgspec.structs.replace(found, sentence=f"{found.sentence}; {_drift(promised)}")


def _drift(promised: Promised) -> str:
    candidate, control = promised.drifting
    if not candidate and not control:
        return "drift: on none of these devices is a change known"
    return (
        f"drift: left out are {candidate} devices with the release and {control} of the control,"
        f" whose input changed"
    )
