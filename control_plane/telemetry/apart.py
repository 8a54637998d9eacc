"""How far one device is from the rest of its fleet: effect sizes with intervals, never an alarm.

Pure. The rest is what all counted less what the device did, exactly.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from firmware_bundles.sketches.distances import jensen_shannon, psi
from firmware_bundles.sketches.intervals import ALPHA

if TYPE_CHECKING:
    from firmware_bundles.sketches.baseline import ColumnKind
    from firmware_bundles.sketches.sketch import Sketch


class Apart(NamedTuple):
    """One column of a device, of n values, beside `fleet_n` of all others.

    `shift` is the difference of means in standard deviations of the others, from `shift_low` to
    `shift_high`; NaN where theirs are all the same or none is known.
    """

    column: str
    kind: ColumnKind
    n: int
    fleet_n: int
    shift: float
    shift_low: float
    shift_high: float
    psi: float
    js: float


def apart(device: Sketch, rest: Sketch, alpha: float = ALPHA) -> list[Apart]:
    """Return every column's difference; those that surely differ most come first."""
    here, there = device.moments(), rest.moments()
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = (here[1] - there[1]) / np.sqrt(there[2])
        error = np.sqrt(here[2] / here[0] + there[2] / there[0]) / np.sqrt(there[2])
    half = NormalDist().inv_cdf(1 - alpha / 2) * error
    is_known = np.isfinite(shift) & np.isfinite(half)
    shift, half = (np.where(is_known, each, np.nan) for each in (shift, half))
    found = [
        Apart(
            column=column.name,
            kind=column.kind,
            n=int(here[0][place]),
            fleet_n=int(there[0][place]),
            shift=float(shift[place]),
            shift_low=float(shift[place] - half[place]),
            shift_high=float(shift[place] + half[place]),
            psi=psi(device.counts_of(place), rest.counts_of(place)),
            js=jensen_shannon(device.counts_of(place), rest.counts_of(place)),
        )
        for place, column in enumerate(device.baseline.columns)
    ]
    return sorted(found, key=lambda each: (-_surely(each), -each.js))


def largest(found: list[Apart]) -> float:
    """Return how far the farthest column surely is, in standard deviations; 0 without one."""
    return max((_surely(each) for each in found), default=0.0)


def _surely(each: Apart) -> float:
    """The least shift that the interval allows."""
    if np.isnan(each.shift) or each.shift_low <= 0 <= each.shift_high:
        return 0.0
    return min(abs(each.shift_low), abs(each.shift_high))
