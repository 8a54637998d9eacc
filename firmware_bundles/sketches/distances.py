"""Distances of two histograms over the same bins: effect sizes, shown with their n, never verdicts.

`c` are the counters of a window, `r` those of a reference, in the bins' order. Without rows on a
side every distance is 0. Whether a distance may be chance is asked in `significance` and `change`.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

_SHARE_MIN: Final = 1e-4  # an empty bin must not make the PSI infinite


def psi(c: Counts, r: Counts) -> float:
    """Population stability index, sum (p - q) ln(p / q), shares floored at 1e-4.

    Without drift its mean is (bins - 1)(1/n + 1/m): it means nothing without its n.
    """
    if not (c.sum() and r.sum()):
        return 0.0
    p, q = (np.maximum(counts / counts.sum(), _SHARE_MIN) for counts in (c, r))
    return float(((p - q) * np.log(p / q)).sum())


def jensen_shannon(c: Counts, r: Counts) -> float:
    """Jensen-Shannon distance (root of the divergence), natural logarithm (Lin 1991)."""
    if not (c.sum() and r.sum()):
        return 0.0
    p, q = c / c.sum(), r / r.sum()
    middle = (p + q) / 2
    return sqrt(max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2))


def hellinger(c: Counts, r: Counts) -> float:
    """Hellinger distance, from 0 to 1: |sqrt(p) - sqrt(q)| / sqrt(2)."""
    if not (c.sum() and r.sum()):
        return 0.0
    return float(np.linalg.norm(np.sqrt(c / c.sum()) - np.sqrt(r / r.sum())) / sqrt(2))


def wasserstein(c: Counts, r: Counts, places: Floats) -> float:
    """First Wasserstein distance, each bin's rows taken to lie at its place; in the units of those.

    The integral of |P - Q| over the places, which do not fall.
    """
    if not (c.sum() and r.sum()):
        return 0.0
    apart = np.abs(np.cumsum(c) / c.sum() - np.cumsum(r) / r.sum())
    return float((apart[:-1] * np.diff(places)).sum())


def places_of(edges: tuple[float, ...], lowest: float, highest: float) -> Floats:
    """Return a place for each counter but the first: the middles of bins, and the ends' extremes.

    `lowest` and `highest` are the least and largest value seen on either side.
    """
    bounds = np.asarray(edges, dtype=np.float64)
    below, above = min(lowest, bounds[0]), max(highest, bounds[-1])
    return np.concatenate(([below], (bounds[:-1] + bounds[1:]) / 2, [above]))


def ks_distance(c: Counts, r: Counts) -> float:
    """Largest difference of the cumulative shares at the edges of bins."""
    if not (c.sum() and r.sum()):
        return 0.0
    return float(np.abs(np.cumsum(c) / c.sum() - np.cumsum(r) / r.sum()).max())


def _divergence(p: Floats, q: Floats) -> float:
    is_there = p > 0
    return float((p[is_there] * np.log(p[is_there] / q[is_there])).sum())
