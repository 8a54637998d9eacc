"""A mergeable summary of predictions: fixed-bin histograms and fixed-point moments.

All its numbers are integers, minima or maxima, so that the merge of parts is the sketch of the
whole, bit for bit, in any order. Bins and scales are the baseline's (`baseline`); bytes are the
codec's affair (`codec`).
"""

from __future__ import annotations

from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches.baseline import ROWS_MAX, Baseline, Column, Reals
from firmware_bundles.sketches.layout import layout_of

_BLOCK_ROWS = 4096  # sums of squares of a block stay exact in float64


class Sketch:
    """Counters of one model's predictions in one window or cohort.

    `rows` rows were counted. `counts` (int64) holds the counters of all columns one after the
    other, those of column c at `layout.offsets[c] : layout.offsets[c + 1]`; `total`, `total2`
    (int64, in quanta) and `minimum`, `maximum` (float32, over finite values; +inf, -inf when there
    is none) hold one number for each column.
    """

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self.layout = layout_of(baseline)
        width = len(baseline.columns)
        self.rows = 0
        self.counts: NDArray[np.int64] = np.zeros(self.layout.size, dtype=np.int64)
        self.total: NDArray[np.int64] = np.zeros(width, dtype=np.int64)
        self.total2: NDArray[np.int64] = np.zeros(width, dtype=np.int64)
        self.minimum: Reals = np.full(width, np.inf, dtype=np.float32)
        self.maximum: Reals = np.full(width, -np.inf, dtype=np.float32)

    @classmethod
    def of_held_out(cls, baseline: Baseline) -> Self:
        """Return the sketch of the held-out rows that the baseline carries."""
        sketch = cls(baseline)
        sketch.rows = baseline.rows
        columns = baseline.columns
        sketch.counts[:] = [count for column in columns for count in column.counts]
        sketch.total[:] = [column.total for column in columns]
        sketch.total2[:] = [column.total2 for column in columns]
        sketch.minimum[:] = [column.minimum for column in columns]
        sketch.maximum[:] = [column.maximum for column in columns]
        return sketch

    def update(self, features: Reals, scores: Reals) -> None:
        """Count rows.

        `features` [rows, all flattened inputs] and `scores` [rows, classes], real values.

        Raises ValueError when the shapes are not the baseline's, or the sketch would become too
        large to be exact.
        """
        if features.shape[1:] != (self.baseline.features,):
            raise ValueError(f"features of shape {features.shape} are not the baseline's")
        self.update_watched(features[:, self.layout.features], scores)

    def update_watched(self, watched: Reals, scores: Reals) -> None:
        """Count rows of which only the features at `layout.features` were kept. See `update`."""
        rows = len(watched)
        wanted = (rows, len(self.layout.features)), (rows, len(self.baseline.labels))
        if (watched.shape, scores.shape) != wanted:
            raise ValueError(f"shapes {watched.shape}, {scores.shape} are not {wanted}")
        self._make_room(rows)
        for start in range(0, rows, _BLOCK_ROWS):
            stop = start + _BLOCK_ROWS
            self._count(self.layout.values(watched[start:stop], scores[start:stop]))

    def merge(self, other: Sketch) -> None:
        """Add what `other` counted.

        Raises ValueError when it has another baseline, or the sum is too large.
        """
        if other.baseline != self.baseline:
            raise ValueError("sketches of different baselines cannot be merged")
        self._make_room(other.rows)
        self.counts += other.counts
        self.total += other.total
        self.total2 += other.total2
        np.minimum(self.minimum, other.minimum, out=self.minimum)
        np.maximum(self.maximum, other.maximum, out=self.maximum)

    def counts_of(self, column: int) -> NDArray[np.int64]:
        """Return the counters of one column: missing, below, the bins, above."""
        first, last = self.layout.offsets[column : column + 2]
        return self.counts[first:last]

    def columns(self) -> tuple[Column, ...]:
        """Return the baseline's columns with this sketch's numbers in them."""
        return tuple(
            msgspec.structs.replace(
                column,
                counts=tuple(self.counts_of(place).tolist()),
                total=int(self.total[place]),
                total2=int(self.total2[place]),
                minimum=float(self.minimum[place]),
                maximum=float(self.maximum[place]),
            )
            for place, column in enumerate(self.baseline.columns)
        )

    def _make_room(self, rows: int) -> None:
        if self.rows + rows > ROWS_MAX:
            raise ValueError(f"a sketch of {self.rows + rows} rows would not be exact")
        self.rows += rows

    def _count(self, values: Reals) -> None:
        self.counts += np.bincount(self.layout.bins(values).ravel(), minlength=self.layout.size)
        quanta = self.layout.quanta(values)
        self.total += quanta.sum(axis=0).astype(np.int64)
        self.total2 += np.einsum("ij,ij->j", quanta, quanta).astype(np.int64)
        is_known = np.isfinite(values)
        lowest = np.min(values, axis=0, where=is_known, initial=np.inf)
        highest = np.max(values, axis=0, where=is_known, initial=-np.inf)
        np.minimum(self.minimum, lowest, out=self.minimum)
        np.maximum(self.maximum, highest, out=self.maximum)
