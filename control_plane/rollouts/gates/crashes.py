"""The gate on crashes: how often the worker dies while a model serves, between the arms. Pure.

The quantity is deaths a minute of service. They are few, so the variance is held above that of
chance, as for shares. An agent that does not tell its deaths is missing data, never zero.
"""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.gate_specs import CrashesGate
from control_plane.rollouts.gates import comparison
from control_plane.rollouts.gates.question import Question
from control_plane.rollouts.model import Finding, FleetView, Rollout

NAME: Final = "crashes"
_MINUTES_PER_DAY: Final = 1_440.0
_SECONDS_PER_MINUTE: Final = 60  # so short a trial hardly holds two deaths
TAU: Final = 10.0 / _MINUTES_PER_DAY
"""Standard deviation of the effects that are expected: ten deaths a day."""


def _a_day(rate: float) -> float:
    return rate * _MINUTES_PER_DAY


def judge(gate: CrashesGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the deaths since the phase began say."""
    limit = gate.crashes_max
    asked = Question(
        name=NAME,
        alpha=rollout.gates.alpha_each,
        margin=gate.margin / _MINUTES_PER_DAY,
        words=lambda rate: f"{_a_day(rate):+.3g}",
        level=lambda rate: f"{_a_day(rate):.3g} deaths a day",
        tau=TAU,
        number=_a_day,
        level_number=_a_day,
        is_share=True,
        trials_each=_SECONDS_PER_MINUTE,
        limit=None if limit is None else limit / _MINUTES_PER_DAY,
        unit="minutes of service",
    )
    return comparison.judge(asked, rollout, view, view.evidence.deaths)
