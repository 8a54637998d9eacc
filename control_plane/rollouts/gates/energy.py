"""The gate on energy: the mean power of each device, between the arms. Pure.

It is the machine's, not a model's: chance put the devices into their arms, so what else they do is
alike in both. On a logarithmic scale a factor is a difference. A platform that does not tell is
missing data.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from control_plane.rollouts.gate_specs import EnergyGate
from control_plane.rollouts.gates import comparison
from control_plane.rollouts.gates.question import Question
from control_plane.rollouts.model import Finding, FleetView, Rollout, Verdict
from control_plane.rollouts.statistics import TAU_LOG

NAME: Final = "energy"


def judge(gate: EnergyGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the devices tell of their power since the phase began."""
    limit, arms = gate.watts_max, view.evidence.watts
    asked = Question(
        name=NAME,
        alpha=rollout.gates.alpha_each,
        margin=math.log1p(gate.increase_max),
        words=lambda factor: f"{math.expm1(factor):+.1%}",
        level=lambda log: f"{math.exp(log):.3g} W",
        tau=TAU_LOG,
        number=math.expm1,
        level_number=math.exp,
        limit=None if limit is None else math.log(limit),
        unit="measured minutes",
    )
    found = comparison.judge(asked, rollout, view, arms)
    if found.verdict is Verdict.INCONCLUSIVE and not arms.candidate.devices:
        why = f"{found.sentence}; no device's platform tells its energy (RAPL, or a battery)"
        return msgspec.structs.replace(found, sentence=why)
    return found
