"""How much a device differs from the signed baseline: effect sizes with intervals, never an alarm.

Devices differ for good reasons, all the time: their difference is shown and ranked.
"""

from __future__ import annotations

from math import inf, sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from firmware_bundles.sketches.baseline import Column, ColumnKind
from firmware_bundles.sketches.distances import jensen_shannon, psi
from firmware_bundles.sketches.intervals import ALPHA
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.sketches.special import ncx2_sf

_BISECTIONS: Final = 60


class Skew(NamedTuple):
    """One column's difference, of n known values.

    `shift` is the difference of means in standard deviations of the baseline, from `shift_low` to
    `shift_high` (NaN where the baseline's values are all the same, or none is known). `excess` is
    the PSI less what chance adds, from `excess_low` to `excess_high`; `js` the Jensen-Shannon
    distance.
    """

    column: str
    kind: ColumnKind
    n: int
    shift: float
    shift_low: float
    shift_high: float
    excess: float
    excess_low: float
    excess_high: float
    js: float


def skews(sketch: Sketch, alpha: float = ALPHA) -> list[Skew]:
    """Return every column's skew, the surest and largest first."""
    held_out = Sketch.of_held_out(sketch.baseline)
    found = [
        _skew(column, place, sketch, held_out, alpha)
        for place, column in enumerate(sketch.baseline.columns)
    ]
    return sorted(found, key=lambda skew: -skew.excess_low)


def _skew(column: Column, place: int, sketch: Sketch, held_out: Sketch, alpha: float) -> Skew:
    c, r = sketch.counts_of(place), held_out.counts_of(place)
    low, high = excess_interval(psi(c, r), int(c.sum()), int(r.sum()), _bins(c, r), alpha)
    shift, half = _shift(place, sketch, held_out, alpha)
    return Skew(
        column=column.name,
        kind=column.kind,
        n=int(c[1:].sum()),
        shift=shift,
        shift_low=shift - half,
        shift_high=shift + half,
        excess=excess(psi(c, r), int(c.sum()), int(r.sum()), _bins(c, r)),
        excess_low=low,
        excess_high=high,
        js=jensen_shannon(c, r),
    )


def excess(index: float, n: int, m: int, bins: int) -> float:
    """A PSI less its mean without drift, (bins - 1)(1/n + 1/m); not below 0."""
    if not (n and m):
        return 0.0
    return max(0.0, index - (bins - 1) * (1 / n + 1 / m))


def excess_interval(index: float, n: int, m: int, bins: int, alpha: float) -> tuple[float, float]:
    """Interval of the true PSI: PSI / (1/n + 1/m) is about noncentral chi-square (bins - 1).

    By inverting its tail; about right where bins expect 15 rows and more.
    """
    if not (n and m) or bins < 2:  # noqa: PLR2004 - nothing to compare
        return 0.0, inf if bins > 1 else 0.0
    unit = 1 / n + 1 / m
    statistic = index / unit
    low = _noncentrality(statistic, bins - 1, alpha / 2)
    high = _noncentrality(statistic, bins - 1, 1 - alpha / 2)
    return low * unit, high * unit


def _noncentrality(statistic: float, df: int, tail: float) -> float:
    """The noncentrality under which more than the statistic has this chance; 0 if there is none."""
    low, high = 0.0, statistic + 10 * sqrt(statistic + df) + 50
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_below = float(ncx2_sf(statistic, df, middle)) < tail
        low, high = (middle, high) if is_below else (low, middle)
    return low


def _bins(c: np.typing.NDArray[np.int64], r: np.typing.NDArray[np.int64]) -> int:
    return int(np.count_nonzero(c + r))


def _shift(place: int, sketch: Sketch, held_out: Sketch, alpha: float) -> tuple[float, float]:
    here, there = _moments(place, sketch), _moments(place, held_out)
    if not (here[0] and there[0] and there[2] > 0):
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf(1 - alpha / 2)
    error = sqrt(here[2] / here[0] + there[2] / there[0])
    return (here[1] - there[1]) / sqrt(there[2]), z * error / sqrt(there[2])


def _moments(place: int, sketch: Sketch) -> tuple[int, float, float]:
    """n, mean and variance of the known values of a column."""
    n = int(sketch.counts_of(place)[1:].sum())
    if not n:
        return 0, 0.0, 0.0
    scale = sketch.baseline.columns[place].scale
    mean = int(sketch.total[place]) / n
    variance = int(sketch.total2[place]) / n - mean * mean
    return n, mean / scale, max(0.0, variance) / scale**2
