"""What gates on averages ask, and how a finding is told. Pure.

Larger is worse; a gate on a quantity that should be large turns its sums around before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from control_plane.rollouts.model import Finding, Verdict
from control_plane.rollouts.statistics import OBSERVATIONS_MIN, TAU_SHARE, Arm


class Question(NamedTuple):
    """What is asked of two arms, or of one.

    `margin` and `tau`, the standard deviation of the effects that are expected, are in the unit of
    the quantity; `words` tells a difference, and `level` a mean. `limit` judges where no control is
    left. `unit` is what an observation is called. A share counts hits among trials, so many trials
    an observation. With `is_non_inferiority_needed` an excess above the margin has to be excluded.
    `is_turned`: it was turned around, and sentences turn it back. `number` and `level_number` are
    what a finding gives of a difference and of a mean, in the unit that its reader knows.
    """

    name: str
    alpha: float
    margin: float
    words: Callable[[float], str]
    level: Callable[[float], str]
    tau: float = TAU_SHARE
    is_share: bool = False
    trials_each: int = 1
    observations_min: int = OBSERVATIONS_MIN
    limit: float | None = None
    unit: str = "observations"
    is_non_inferiority_needed: bool = False
    is_turned: bool = False
    number: Callable[[float], float] = float
    level_number: Callable[[float], float] = float

    @property
    def least(self) -> str:
        """What a lower bound is called."""
        return "at most" if self.is_turned else "at least"

    @property
    def most(self) -> str:
        """What an upper bound is called."""
        return "at least" if self.is_turned else "at most"

    @property
    def beyond(self) -> str:
        """Where what is worse than a limit is."""
        return "below" if self.is_turned else "above"


def told(
    gate: str,
    verdict: Verdict | None,
    sentence: str,
    *,
    value: float | None = None,
    threshold: float | None = None,
    samples: dict[str, int] | None = None,
) -> Finding:
    """Return a finding, its sentence behind the name of the gate."""
    return Finding(
        gate=gate,
        verdict=verdict,
        sentence=f"{gate}: {sentence}",
        value=value,
        threshold=threshold,
        samples=samples or {},
    )


def samples_of(candidate: Arm, control: Arm) -> dict[str, int]:
    """Return what a finding rests on."""
    return {
        "candidate": candidate.observations,
        "candidate_devices": candidate.devices,
        "control": control.observations,
        "control_devices": control.devices,
    }
