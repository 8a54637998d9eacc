"""How far counted windows are from a model's signed baseline: distances and p-values of one window.

For display and diagnosis: effect sizes are always shown with their n, and nothing here raises an
alarm. Only numpy: the two tail functions are written out, and compared with stored values of scipy
in the tests. `c` are the counters of the window, `r` those of the baseline, over the same bins in
order of the value: missing, below, the bins, above.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, exp, lgamma, log, pi, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_bundles.sketches.baseline import ROWS_PER_BIN_MIN, ColumnKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bundles.sketches.sketch import Sketch

    Counts = NDArray[np.int64]

_SHARE_MIN: Final = 1e-4  # an empty bin must not make the PSI infinite
_EXPECTED_MIN: Final = 5.0  # of a cell, below which the chi-square law does not hold
_TERMS_MAX: Final = 100
_TERM_MIN: Final = 1e-18
_BINS_BESIDE: Final = 3  # missing, below, above


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One column's distances. `p` is the smaller p-value of the two tests, doubled."""

    name: str
    kind: ColumnKind
    n: int
    psi: float
    js: float
    ks: float
    ks_p: float
    chi2_p: float
    p: float
    is_enough: bool


def distances(window: Sketch) -> list[Distance]:
    """Return every column's distance of `window` to the held-out rows of its baseline."""
    return [
        _distance(
            column.name, column.kind, window.counts_of(place), np.array(column.counts, np.int64)
        )
        for place, column in enumerate(window.baseline.columns)
    ]


def _distance(name: str, kind: ColumnKind, c: Counts, r: Counts) -> Distance:
    n, ks = int(c.sum()), ks_distance(c, r)
    ks_tail, chi2_tail = ks_p(c, r), chi2_p(c, r)
    return Distance(
        name=name,
        kind=kind,
        n=n,
        psi=psi(c, r),
        js=jensen_shannon(c, r),
        ks=ks,
        ks_p=ks_tail,
        chi2_p=chi2_tail,
        p=min(1.0, 2 * min(ks_tail, chi2_tail)),
        is_enough=n >= ROWS_PER_BIN_MIN * (len(c) - _BINS_BESIDE),
    )


def psi(c: Counts, r: Counts) -> float:
    """Population stability index, sum (p - q) ln(p / q); 0 without rows.

    Without drift its mean is (bins - 1)(1/n + 1/m): it means nothing without its n.
    """
    n, m = c.sum(), r.sum()
    if not (n and m):
        return 0.0
    p, q = np.maximum(c / n, _SHARE_MIN), np.maximum(r / m, _SHARE_MIN)
    return float(((p - q) * np.log(p / q)).sum())


def jensen_shannon(c: Counts, r: Counts) -> float:
    """Jensen-Shannon distance (root of the divergence), natural logarithm; 0 without rows."""
    n, m = c.sum(), r.sum()
    if not (n and m):
        return 0.0
    p, q = c / n, r / m
    middle = (p + q) / 2
    return sqrt(max(0.0, (_divergence(p, middle) + _divergence(q, middle)) / 2))


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    is_there = p > 0
    return float((p[is_there] * np.log(p[is_there] / q[is_there])).sum())


def ks_distance(c: Counts, r: Counts) -> float:
    """Largest difference of the cumulative shares at the edges of bins; 0 without rows."""
    n, m = c.sum(), r.sum()
    if not (n and m):
        return 0.0
    return float(np.abs(np.cumsum(c) / n - np.cumsum(r) / m).max())


def ks_p(c: Counts, r: Counts) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test on bins (conservative); 1 without rows."""
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
    cells = _merged(c, r, _EXPECTED_MIN / min(share, 1 - share))
    if len(cells) < 2:  # noqa: PLR2004 - nothing to compare
        return 1.0
    seen, reference = cells.T
    both = seen + reference
    statistic = ((seen - both * share) ** 2 / (both * share)).sum()
    statistic += ((reference - both * (1 - share)) ** 2 / (both * (1 - share))).sum()
    return chi2_sf(float(statistic), len(cells) - 1)


def _merged(c: Counts, r: Counts, rows_min: float) -> NDArray[np.float64]:
    cells: list[list[float]] = []
    seen = reference = 0.0
    for here, there in zip(c.tolist(), r.tolist(), strict=True):
        seen, reference = seen + here, reference + there
        if seen + reference >= rows_min:
            cells.append([seen, reference])
            seen = reference = 0.0
    if cells:
        cells[-1][0] += seen
        cells[-1][1] += reference
    return np.array(cells, dtype=np.float64).reshape(-1, 2)


def chi2_sf(x: float, df: int) -> float:
    """P(chi-square with `df` degrees of freedom > x), by the finite series for whole `df`."""
    if x <= 0:
        return 1.0
    half = x / 2
    tail, a = (erfc(sqrt(half)), 0.5) if df % 2 else (exp(-half), 1.0)
    while a < df / 2:
        tail += exp(a * log(half) - half - lgamma(a + 1))
        a += 1
    return min(1.0, tail)


def kolmogorov_sf(z: float) -> float:
    """P(K > z) of the Kolmogorov distribution: the series that converges fast on each side of 1."""
    if z <= 0:
        return 1.0
    if z < 1:
        exponents = (-((2 * k - 1) ** 2) * pi**2 / (8 * z * z) for k in range(1, _TERMS_MAX))
        return 1 - sqrt(2 * pi) / z * sum(map(exp, exponents))
    total = 0.0
    for k in range(1, _TERMS_MAX):
        term = exp(-2 * k * k * z * z)
        if term < _TERM_MIN:
            break
        total += term if k % 2 else -term
    return 2 * total
