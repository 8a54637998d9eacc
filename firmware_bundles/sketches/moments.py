"""Named business values of predictions as exact moments: n, sum, sum of squares, least and largest.

Their names and scales are the baseline's. They come with feedback, so they have an n of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches.baseline import QUANTUM_MAX, ROWS_MAX, Reals, Value


class Moments:
    """One number for each declared value; `total` and `total2` are in quanta (int64)."""

    def __init__(self, values: Sequence[Value]) -> None:
        width = len(values)
        self.scales = np.array([value.scale for value in values], dtype=np.float64)
        self.n: NDArray[np.int64] = np.zeros(width, dtype=np.int64)
        self.total: NDArray[np.int64] = np.zeros(width, dtype=np.int64)
        self.total2: NDArray[np.int64] = np.zeros(width, dtype=np.int64)
        self.minimum: Reals = np.full(width, np.inf, dtype=np.float32)
        self.maximum: Reals = np.full(width, -np.inf, dtype=np.float32)

    def update(self, values: NDArray[np.float64]) -> None:
        """Count rows [rows, declared values]; what is not finite was not given.

        Raises ValueError when the shape does not fit, or the sums would not be exact.
        """
        if values.ndim != 2 or values.shape[1] != len(self.n):  # noqa: PLR2004
            raise ValueError(f"values of shape {values.shape} are not the {len(self.n)} declared")
        is_given = np.isfinite(values)
        self._make_room(is_given.sum(axis=0))
        known = np.where(is_given, values, 0.0)
        limit = QUANTUM_MAX / self.scales
        quanta = np.rint(np.clip(known, -limit, limit) * self.scales).astype(np.int64)
        self.total += quanta.sum(axis=0)
        self.total2 += (quanta**2).sum(axis=0)
        seen = np.clip(values, -limit, limit).astype(np.float32) + np.float32(0.0)
        lowest = np.min(seen, axis=0, where=is_given, initial=np.inf)
        highest = np.max(seen, axis=0, where=is_given, initial=-np.inf)
        np.minimum(self.minimum, lowest, out=self.minimum)
        np.maximum(self.maximum, highest, out=self.maximum)

    def merge(self, other: Moments) -> None:
        """Add what `other` counted. Raises ValueError when the sums would not be exact."""
        self._make_room(other.n)
        self.total += other.total
        self.total2 += other.total2
        np.minimum(self.minimum, other.minimum, out=self.minimum)
        np.maximum(self.maximum, other.maximum, out=self.maximum)

    def subtract(self, other: Moments) -> None:
        """Take away what `other` counted; ranges stay, as bounds. Raises ValueError if less."""
        if (other.n > self.n).any() or (other.total2 > self.total2).any():
            raise ValueError("values that were never added cannot be taken away")
        self.n -= other.n
        self.total -= other.total
        self.total2 -= other.total2
        self.minimum[self.n == 0], self.maximum[self.n == 0] = np.inf, -np.inf

    def means(self) -> NDArray[np.float64]:
        """Return the mean of each value, NaN where none was given."""
        mean: NDArray[np.float64] = self.total / np.where(self.n, self.n, np.nan) / self.scales
        return mean

    def _make_room(self, rows: NDArray[np.int64]) -> None:
        if (self.n + rows > ROWS_MAX).any():
            raise ValueError(f"moments of more than {ROWS_MAX} rows would not be exact")
        self.n += rows
