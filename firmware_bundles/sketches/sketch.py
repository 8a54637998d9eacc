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
from firmware_bundles.sketches.distances import Floats
from firmware_bundles.sketches.layout import layout_of
from firmware_bundles.sketches.moments import Moments
from firmware_bundles.sketches.outcomes import NO_ANSWER, Outcomes

Places = NDArray[np.int64]

# The arrays of a block stay in a core's cache, and its sums of squares exact in float64.
_BLOCK_ROWS = 512


class Sketch:
    """Counters of one model's predictions in one window or cohort.

    `rows` rows were counted. `counts` (int64) holds the counters of all columns one after the
    other, those of column c at `layout.offsets[c] : layout.offsets[c + 1]`; `total`, `total2`
    (int64, in quanta) and `minimum`, `maximum` (float32, over finite values; +inf, -inf when there
    is none) hold one number for each column. `answers` (int64) holds [segment, prediction + 1].
    What comes with feedback has numbers of its own: `outcomes`, and `values` as declared.
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
        shape = len(baseline.segments), self.layout.classes + 1
        self.answers: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self.outcomes = Outcomes(len(baseline.segments), self.layout.classes)
        self.values = Moments(baseline.declared)

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
        sketch.answers[0] = sketch.answered()
        return sketch

    def update(self, features: Reals, scores: Reals, segments: Places | None = None) -> None:
        """Count rows.

        `features` [rows, all flattened inputs] and `scores` [rows, classes], real values;
        `segments` are places in the baseline's list, all the first if None.

        Raises ValueError when the shapes are not the baseline's, or the sketch would become too
        large to be exact.
        """
        if features.shape[1:] != (self.baseline.features,):
            raise ValueError(f"features of shape {features.shape} are not the baseline's")
        self.update_watched(features[:, self.layout.features], scores, segments)

    def update_watched(self, watched: Reals, scores: Reals, segments: Places | None = None) -> None:
        """Count rows of which only the features at `layout.features` were kept. See `update`."""
        rows = len(watched)
        wanted = (rows, len(self.layout.features)), (rows, len(self.baseline.labels))
        if (watched.shape, scores.shape) != wanted:
            raise ValueError(f"shapes {watched.shape}, {scores.shape} are not {wanted}")
        if segments is not None:
            self._check_segments(rows, segments)
        self._make_room(rows)
        for start in range(0, rows, _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            index = self._count(self.layout.values(watched[part], scores[part]))
            if segments is not None:
                self._count_answers(index[-1], segments[part])
        self.answers[0] = self.answered() - self.answers[1:].sum(axis=0)

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
        self.answers += other.answers
        np.minimum(self.minimum, other.minimum, out=self.minimum)
        np.maximum(self.maximum, other.maximum, out=self.maximum)
        self.outcomes.merge(other.outcomes)
        self.values.merge(other.values)

    def subtract(self, other: Sketch) -> None:
        """Take away what `other` counted, which was merged before.

        All counters and sums are exact; a minimum and a maximum cannot be taken back and stay, as
        bounds. Raises ValueError when `other` has another baseline, or is no part of this.
        """
        if other.baseline != self.baseline:
            raise ValueError("sketches of different baselines cannot be subtracted")
        is_more = (other.counts > self.counts).any() or (other.answers > self.answers).any()
        if is_more or (other.total2 > self.total2).any():
            raise ValueError("rows that were never counted cannot be taken away")
        self.outcomes.subtract(other.outcomes)
        self.values.subtract(other.values)
        self.rows -= other.rows
        self.counts -= other.counts
        self.total -= other.total
        self.total2 -= other.total2
        self.answers -= other.answers
        is_empty = self.rows == self.counts[self.layout.offsets[:-1]]
        self.minimum[is_empty], self.maximum[is_empty] = np.inf, -np.inf

    def answered(self) -> NDArray[np.int64]:
        """Return how often each prediction was given in all segments; first those without one."""
        answered: NDArray[np.int64] = np.zeros(self.layout.classes + 1, dtype=np.int64)
        if self.layout.has_answers:
            counts = self.counts_of(len(self.baseline.columns) - 1)
            answered[0], answered[1:] = counts[0], counts[2:-1]
        return answered

    def counts_of(self, column: int) -> NDArray[np.int64]:
        """Return the counters of one column: missing, below, the bins, above."""
        first, last = self.layout.offsets[column : column + 2]
        return self.counts[first:last]

    def moments(self) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Return n, mean and variance of each column's known values; NaN where there are none."""
        n = self.rows - self.counts[self.layout.offsets[:-1]]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.total / n
            variance = np.maximum(0.0, self.total2 / n - mean * mean)
        return n, mean / self.layout.scales, variance / self.layout.scales**2

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

    def _check_segments(self, rows: int, segments: Places) -> None:
        if segments.shape != (rows,):
            raise ValueError(f"{segments.shape} segments do not fit {rows} rows")
        if rows and not 0 <= segments.min() <= segments.max() < len(self.baseline.segments):
            raise ValueError("a segment is not in the baseline's list")

    def _count_answers(self, index: NDArray[np.int64], segments: Places) -> None:
        if not self.layout.has_answers:
            return
        counter = index - self.layout.offsets[-2]
        prediction = np.where(counter == 0, NO_ANSWER, counter - 2)
        place = segments * self.answers.shape[1] + prediction + 1
        counted = np.bincount(place, minlength=self.answers.size).reshape(self.answers.shape)
        self.answers[1:] += counted[1:]

    def _count(self, values: Reals) -> NDArray[np.int64]:
        index = self.layout.bins(values)
        self.counts += np.bincount(index.ravel(), minlength=self.layout.size)
        quanta = self.layout.quanta(values)
        self.total += quanta.sum(axis=1).astype(np.int64)
        self.total2 += np.einsum("ij,ij->i", quanta, quanta).astype(np.int64)
        is_known = np.isfinite(values)
        where = True if is_known.all() else is_known  # the short way is twice as fast
        lowest = np.min(values, axis=1, where=where, initial=np.inf)
        highest = np.max(values, axis=1, where=where, initial=-np.inf)
        np.minimum(self.minimum, lowest, out=self.minimum)
        np.maximum(self.maximum, highest, out=self.maximum)
        return index
