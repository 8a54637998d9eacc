"""Histograms of latency on fixed bounds: they add up exactly, over devices and over time. Pure.

Two buckets an octave, from 16 us to about 67 s: a percentile is known to a factor of 1.41 and told
as a point inside its bucket, beside the bounds of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_OCTAVE_FIRST: Final = 4
_OCTAVE_LAST: Final = 26
# Whole numbers: bucket 0 holds what is below the first, the last what is at or above the last.
BOUNDS_US: Final = tuple(
    round(2 ** (half / 2)) for half in range(2 * _OCTAVE_FIRST, 2 * _OCTAVE_LAST + 1)
)
BUCKETS: Final = len(BOUNDS_US) + 1
_BOUNDS: Final = np.array(BOUNDS_US, dtype=np.int64)


class Percentile(NamedTuple):
    """A percentile in microseconds, and the bounds between which it certainly lies.

    `high_us` is None in the last bucket, which has no end.
    """

    us: float
    low_us: int
    high_us: int | None


def histogram(latency_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count latencies by bucket."""
    counts: NDArray[np.int64] = histograms([latency_us])[0]
    return counts


def histograms(runs: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Count the latencies of several runs: [runs, buckets]; all at once costs little more."""
    which = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    values = np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)
    places = np.searchsorted(_BOUNDS, values, side="right") + which * BUCKETS
    counts = np.bincount(places, minlength=len(runs) * BUCKETS)
    return counts.reshape(len(runs), BUCKETS).astype(np.int64)


def percentile(counts: Sequence[int], share: float) -> Percentile | None:
    """Return the value that `share` (0 to 1) of all do not exceed; None if there are none.

    Within its bucket latencies are taken to be spread evenly on a logarithmic scale.
    """
    total = sum(counts)
    if not total:
        return None
    wanted = max(1, math.ceil(share * total))
    before = 0
    for place, count in enumerate(counts):
        if before + count >= wanted:
            return _within(place, (wanted - before) / count)
        before += count
    raise AssertionError("the last bucket holds the rest")


def _within(place: int, part: float) -> Percentile:
    low = BOUNDS_US[place - 1] if place else 0
    if place == len(BOUNDS_US):
        return Percentile(float(low), low, None)
    high = BOUNDS_US[place]
    start = max(low, 1)
    return Percentile(start * (high / start) ** part, low, high)
