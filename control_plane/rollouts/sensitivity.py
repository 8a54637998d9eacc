"""What a gate would find before there is any evidence: effects, and the labels they take. Pure.

The tests are those of `statistics`; here they are asked about arms that nobody has seen yet.
Assumed is a model that errs in 5 % of its labels, and devices that err as on the day before, so
that comparison with it (CUPED) leaves the chance of the labels alone. What is assumed of the other
quantities stands in `expected`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from control_plane.rollouts.expected import Quantity
from control_plane.rollouts.gate_specs import LabelErrorsGate
from control_plane.rollouts.phase_specs import OfferRate
from control_plane.rollouts.statistics import (
    DEVICES_MIN,
    OBSERVATIONS_MIN,
    Difference,
    hits_beyond,
    lower_bound,
    upper_bound,
)

ERROR_SHARE: Final = 0.05
EXCESS_MIN: Final = 0.02
LABELS_MAX: Final = 10_000_000
DEVICES_MAX: Final = 1_000_000
_WAVES_MAX: Final = 10_000


class Arms(NamedTuple):
    """How many devices a phase compares."""

    candidate: int
    control: int

    @property
    def devices(self) -> int:
        """Devices of the smaller arm."""
        return min(self.candidate, self.control)

    @property
    def can_compare(self) -> bool:
        """Whether there is anybody on each side."""
        return self.devices > 0


def wanted(margin: float) -> float:
    """Return the excess that a gate with this margin must not miss: twice the margin."""
    return max(2 * margin, margin + EXCESS_MIN)


def found(gate: LabelErrorsGate, arms: Arms, alpha: float) -> float | None:
    """Return the excess that is found when both arms have just the labels that the gate asks for.

    None if even a candidate that is always wrong would not be found.
    """
    if arms.devices >= DEVICES_MIN:
        labels = max(gate.labels_min, OBSERVATIONS_MIN)
        return _difference(labels, arms).detectable(alpha, gate.margin)
    return _found_on_these(gate.labels_min, gate.margin, alpha)


def labels_needed(gate: LabelErrorsGate, arms: Arms, alpha: float) -> int:
    """Return the labels an arm from which `wanted` is found, in steps of a tenth."""
    labels = max(gate.labels_min, 1)
    while labels < LABELS_MAX:
        asked = _asking_for(gate, labels)
        seen = found(asked, arms, alpha)
        if seen is not None and seen <= wanted(gate.margin):
            break
        labels += max(labels // 10, 1)
    return labels


def found_between(asked: Quantity, arms: Arms, alpha: float) -> float:
    """Return the excess that a gate between arms finds with so many devices on each side."""
    variance = asked.sd**2 * (1 / arms.candidate + 1 / arms.control)
    looked = Difference(0.0, variance, arms.devices, OBSERVATIONS_MIN, asked.tau)
    return looked.detectable(alpha, asked.margin)


def devices_needed(asked: Quantity, alpha: float) -> int:
    """Return from how many devices on each side `asked.wanted` is found; `DEVICES_MAX` if never."""
    few, enough = DEVICES_MIN - 1, DEVICES_MAX
    while enough - few > 1:
        middle = (few + enough) // 2
        if found_between(asked, Arms(middle, middle), alpha) <= asked.wanted:
            enough = middle
        else:
            few = middle
    return enough


def offering_s(rate: OfferRate, devices: int) -> float:
    """Return how long it takes at least to offer to so many devices at a rate."""
    size, left, waves = float(rate.devices), devices, 0
    limit = rate.devices_max or devices
    while left > 0 and waves < _WAVES_MAX:
        left -= min(int(size), limit)
        size = min(size * rate.growth, float(limit))
        waves += 1
    waves += max(left, 0) // max(min(int(size), limit), 1)
    return max(waves - 1, 0) * rate.per_s


def _difference(labels: int, arms: Arms) -> Difference:
    variance = ERROR_SHARE * (1 - ERROR_SHARE) * 2 / labels
    return Difference(0.0, variance, devices=arms.devices, observations=labels)


def _found_on_these(labels: int, margin: float, alpha: float) -> float | None:
    """Return the least excess whose lower bound is above margin and control, by bisection."""
    ceiling = upper_bound(round(ERROR_SHARE * labels), labels, alpha / 2)
    beyond = hits_beyond(labels, min(ceiling + margin, 1.0), alpha / 2)
    if beyond is None or lower_bound(beyond, labels, alpha / 2) - ceiling <= margin:
        return None
    return beyond / labels - ERROR_SHARE


def _asking_for(gate: LabelErrorsGate, labels: int) -> LabelErrorsGate:
    return LabelErrorsGate(margin=gate.margin, labels_min=labels)
