"""Whether a device's windows changed against its own reference, taken after installation.

A device's constant difference from the signed baseline is in its reference, so it does not ring
(`skew` shows it). Each column is asked three things: the shape over its bins, missing values, and
values out of range. When there is something to ask is `watch`'s affair.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches.baseline import ROWS_PER_BIN_MIN
from firmware_bundles.sketches.distances import Counts, Floats
from firmware_bundles.sketches.significance import cells, rate_p, tolerated_rate
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.sketches.special import chi2_isf, ncx2_sf

QUESTIONS: Final = ("shape", "missing", "out_of_range")
_TOLERANCE_MIN: Final = 0.005
_TOLERANCE_ALPHA: Final = 1e-3
_EXPECTED_MIN: Final = 15.0  # of a cell: with ten p < .01 comes in 2.6 %, with five in 12 %


class _Shape(NamedTuple):
    """One column's cells: of each counter but missing, and the smoothed shares of the cells."""

    groups: Counts
    shares: Floats
    tolerance: float


class Reference:
    """A device's own normal, ready to test windows of `rows_min` rows and more.

    All of it follows from `sketch`, the rows that it was commissioned with.
    """

    def __init__(self, reference: Sketch, rows_min: int) -> None:
        self.sketch = reference
        columns = reference.baseline.columns
        counters = [reference.counts_of(place) for place in range(len(columns))]
        self.rows = reference.rows
        self._shapes = [_shape(counts[1:], rows_min, len(columns)) for counts in counters]
        self._missing = [tolerated_rate(k[0], self.rows, len(columns)) for k in counters]
        self._outside = [
            tolerated_rate(int(k[1] + k[-1]), int(k[1:].sum()), len(columns)) for k in counters
        ]

    def p_values(self, window: Sketch) -> Floats:
        """Return p-values [question x column], flat; NaN where a window has too few rows to tell.

        Shape: X2 = sum (c - n q)^2 / (n q) under the noncentral chi-square of n times the
        tolerance, within which the reference's own error lies.
        """
        columns = len(self._shapes)
        counters = [window.counts_of(place) for place in range(columns)]
        outside = [
            rate_p(int(counts[1] + counts[-1]), int(counts[1:].sum()), tolerated)
            for counts, tolerated in zip(counters, self._outside, strict=True)
        ]
        missing = [
            rate_p(int(counts[0]), window.rows, tolerated)
            for counts, tolerated in zip(counters, self._missing, strict=True)
        ]
        return np.concatenate((self._shape_p(counters), missing, outside))

    def _shape_p(self, counters: list[Counts]) -> Floats:
        statistics = np.full(len(counters), np.nan)
        keys: list[tuple[int, float]] = []
        for place, (shape, counts) in enumerate(zip(self._shapes, counters, strict=True)):
            n, size = int(counts[1:].sum()), len(shape.shares)
            keys.append((size - 1, n * shape.tolerance))
            if size > 1 and n >= ROWS_PER_BIN_MIN * size:
                seen = np.bincount(shape.groups, weights=counts[1:], minlength=size)
                statistics[place] = ((seen - n * shape.shares) ** 2 / (n * shape.shares)).sum()
        return _tails(statistics, keys)


def _shape(counts: Counts, rows_min: int, columns: int) -> _Shape:
    rows = int(counts.sum())
    if not rows:
        return _Shape(np.zeros(len(counts), dtype=np.int64), np.ones(1), 0.0)
    expected = counts.astype(np.float64) * (rows_min / rows)
    groups = cells(expected, _EXPECTED_MIN)
    if ROWS_PER_BIN_MIN * (groups[-1] + 1) > rows_min:
        groups = cells(expected, float(ROWS_PER_BIN_MIN))
    size = int(groups[-1]) + 1
    held = np.bincount(groups, weights=counts, minlength=size).astype(np.float64)
    shares = (held + 0.5) / (rows + 0.5 * size)
    tolerance = _TOLERANCE_MIN
    if size > 1:
        tolerance = max(tolerance, chi2_isf(_TOLERANCE_ALPHA / columns, size - 1) / rows)
    return _Shape(groups, shares, tolerance)


def _tails(statistics: Floats, keys: list[tuple[int, float]]) -> Floats:
    """All columns of the same law at once."""
    p: NDArray[np.float64] = np.full(len(statistics), np.nan)
    for df, noncentrality in set(keys):
        is_here = np.array([key == (df, noncentrality) for key in keys]) & ~np.isnan(statistics)
        if is_here.any():
            p[is_here] = ncx2_sf(statistics[is_here], df, noncentrality)
    return p
