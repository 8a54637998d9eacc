"""The latencies of a segment counted in narrow bins: percentiles by device are made of them. Pure.

Sixteen bins an octave, from 16 us to about 67 s: the middle of a bin is off by 2.2 % at most. They
are kept as pairs of bin and count, so that histograms put one after another are the one of all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_PER_OCTAVE: Final = 16
_OCTAVE_FIRST: Final = 4
_OCTAVE_LAST: Final = 26
# Below 32 us neighbours are one microsecond apart: each whole number is a bin of its own there.
BOUNDS_US: Final = tuple(
    sorted(
        {
            math.ceil(2 ** (part / _PER_OCTAVE))
            for part in range(_PER_OCTAVE * _OCTAVE_FIRST, _PER_OCTAVE * _OCTAVE_LAST + 1)
        }
    )
)
"""Bin 0 holds what is below the first, the last what is at or above the last."""
BINS: Final = len(BOUNDS_US) + 1
WIDTH_LOG: Final = math.log(2) / _PER_OCTAVE
"""How far apart the true logarithms of two percentiles may be that are told to be equal."""
_BOUNDS: Final = np.array(BOUNDS_US, dtype=np.int64)
_PAIR: Final = np.dtype([("bin", "<u2"), ("count", "<u2")])


class Quantile(NamedTuple):
    """A percentile in microseconds, and how many latencies it is one of."""

    us: float
    rows: int


def encoded(runs: Sequence[NDArray[np.int64]]) -> list[bytes]:
    """Return the histogram of each run of at most 65,535 latencies; all at once costs little more.

    The form: for each bin that is not empty, in order, its number and its count, both as 16 bits
    with the low byte first.
    """
    if not runs:
        return []
    which = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    bins = np.searchsorted(_BOUNDS, np.concatenate(runs), side="right")
    counts = np.bincount(which * BINS + bins, minlength=len(runs) * BINS)
    places = np.flatnonzero(counts)
    pairs = np.empty(len(places), dtype=_PAIR)
    pairs["bin"], pairs["count"] = places % BINS, counts[places]
    ends = np.searchsorted(places // BINS, np.arange(1, len(runs)))
    return [part.tobytes() for part in np.split(pairs, ends)]


def quantile(histograms: bytes, share: float) -> Quantile | None:
    """Return the value that `share` (0 to 1) of all do not exceed; None if there are none.

    It is the middle of its bin on a logarithmic scale, the end that is known of the outer two.
    """
    pairs = np.frombuffer(histograms, dtype=_PAIR)
    counts = np.bincount(pairs["bin"], weights=pairs["count"], minlength=BINS)
    total = int(counts.sum())
    if not total:
        return None
    place = int(np.searchsorted(np.cumsum(counts), max(1, math.ceil(share * total))))
    return Quantile(_middle(place), total)


def _middle(place: int) -> float:
    low = BOUNDS_US[max(place - 1, 0)]
    high = BOUNDS_US[place] - 1 if 0 < place < len(BOUNDS_US) else low
    return math.sqrt(low * high)
