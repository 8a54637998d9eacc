"""p-values of one window against a reference, for display and diagnosis; the alarm is `change`'s.

`c` are the counters of the window (n rows), `r` those of the reference (m rows), in the bins'
order. Without rows on a side every p-value is 1.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches.distances import Counts, Floats, ks_distance
from firmware_bundles.sketches.special import binomial_tail, chi2_sf, kolmogorov_sf, rate_bound

BH_ALPHA: Final = 0.01
RATE_TOLERANCE: Final = 0.005
_RATE_ALPHA: Final = 1e-3
_EXPECTED_MIN: Final = 5.0  # of a cell, below which the chi-square law does not hold


def ks_p(c: Counts, r: Counts) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test on bins (conservative)."""
    n, m = int(c.sum()), int(r.sum())
    if not (n and m):
        return 1.0
    return kolmogorov_sf(ks_distance(c, r) * sqrt(n * m / (n + m)))


def chi2_p(c: Counts, r: Counts) -> float:
    """p-value of the chi-square test of homogeneity; 1 when fewer than two bins can be told apart.

    Neighbouring bins are merged until each cell expects five rows; what rests joins the last.
    """
    n, m = int(c.sum()), int(r.sum())
    if not (n and m):
        return 1.0
    share = n / (n + m)
    groups = cells((c + r).astype(np.float64), _EXPECTED_MIN / min(share, 1 - share))
    if groups[-1] < 1:
        return 1.0
    seen, reference = np.bincount(groups, weights=c), np.bincount(groups, weights=r)
    both = seen + reference
    statistic = ((seen - both * share) ** 2 / (both * share)).sum()
    statistic += ((reference - both * (1 - share)) ** 2 / (both * (1 - share))).sum()
    return float(chi2_sf(statistic, int(groups[-1])))


def combined_p(c: Counts, r: Counts) -> float:
    """The smaller p-value of both tests, doubled: KS finds shift and noise, chi-square shape."""
    return min(1.0, 2 * min(ks_p(c, r), chi2_p(c, r)))


def cells(expected: Floats, expected_min: float) -> Counts:
    """Return the cell of each bin: neighbours join until a cell expects enough; a rest the last."""
    groups = np.zeros(len(expected), dtype=np.int64)
    cell, held = 0, 0.0
    for place, amount in enumerate(expected.tolist()):
        groups[place] = cell
        held += amount
        if held >= expected_min:
            cell, held = cell + 1, 0.0
    return np.minimum(groups, max(0, cell - 1))


def tolerated_rate(k: int, n: int, columns: int) -> float:
    """The highest rate that k of n reference rows may stand for, for one of so many columns.

    The reference's own error counts as no change: the upper bound at .001 / columns, and at least
    half a per cent more than was seen.
    """
    if not n:
        return 1.0
    return max(k / n + RATE_TOLERANCE, rate_bound(k, n, _RATE_ALPHA / columns))


def rate_p(k: int, n: int, tolerated: float) -> float:
    """P(Bin(n, tolerated) >= k): whether missing or out-of-range values became more; one-sided."""
    return 1.0 if k <= n * tolerated else binomial_tail(k, n, tolerated)


def benjamini_hochberg(p: Floats, alpha: float = BH_ALPHA) -> NDArray[np.bool_]:
    """Return which hypotheses are rejected at false discovery rate alpha (1995), in their order."""
    order = np.argsort(p)
    passed = np.flatnonzero(p[order] <= alpha * np.arange(1, len(p) + 1) / max(1, len(p)))
    is_rejected = np.zeros(len(p), dtype=np.bool_)
    is_rejected[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return is_rejected
