"""How the columns of a baseline lie in the arrays of its sketches; made once for each baseline."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches.baseline import QUANTUM_MAX, Baseline, ColumnKind, Reals

_OUTSIDE = 3  # counters of a column beside its bins: missing, below, above


class Layout:
    """The baseline as arrays: counters of column c are counts[offsets[c]:offsets[c + 1]].

    Columns stand in the baseline's order: features, scores, confidence, class.
    """

    def __init__(self, baseline: Baseline) -> None:
        columns = baseline.columns
        sizes = [len(column.edges) - 1 + _OUTSIDE for column in columns]
        self.offsets: NDArray[np.int64] = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        self.size = int(self.offsets[-1])
        self.scales = np.array([column.scale for column in columns], dtype=np.float64)
        self.features = _positions(baseline, ColumnKind.FEATURE)
        self.scores = _positions(baseline, ColumnKind.SCORE)
        kinds = [column.kind for column in columns]
        self.has_answers = ColumnKind.CLASS in kinds
        self.classes = len(baseline.labels)
        binned = [column for column in columns if column.kind is not ColumnKind.CLASS]
        # Those with most edges first: then the others need not be compared with all of them.
        self._binned = np.array(sorted(range(len(binned)), key=lambda at: -len(binned[at].edges)))
        edges = [binned[at].edges for at in self._binned]
        self._edges: list[Reals] = [
            np.array([each[place : place + 1] for each in edges if len(each) > place], np.float32)
            for place in range(max(map(len, edges), default=0))
        ]

    def values(self, watched: Reals, scores: Reals) -> Reals:
        """Return one line for each column, one value for each row (its features at `features`)."""
        found = np.empty((len(self.scales), len(watched)), dtype=np.float32)
        features, end = len(self.features), len(self.features) + len(self.scores)
        found[:features] = watched.T
        found[features:end] = scores.T[self.scores]
        if self.has_answers:
            by_class = np.ascontiguousarray(scores.T)
            is_whole = np.isfinite(by_class).all(axis=0)
            found[-2] = np.where(is_whole, by_class.max(axis=0), np.nan)
            found[-1] = np.where(is_whole, scores.argmax(axis=1), np.nan)
        # Adding zero makes -0.0 and 0.0 one value: their order must not show in the minimum.
        found += np.float32(0.0)
        return found

    def bins(self, values: Reals) -> NDArray[np.int64]:
        """Return the counter of every value: 0 missing, 1 below, 2.. the bins, the last above."""
        binned = values[self._binned]
        passed = np.ones(binned.shape, dtype=np.uint8)
        is_passed = np.empty(binned.shape, dtype=np.bool_)
        one = is_passed.view(np.uint8)
        for edges in self._edges:
            some = len(edges)
            np.greater_equal(binned[:some], edges, out=is_passed[:some])
            np.add(passed[:some], one[:some], out=passed[:some])
        index = np.empty(values.shape, dtype=np.int64)
        index[self._binned] = passed
        is_known = np.isfinite(values)
        if self.has_answers:
            index[-1] = np.where(is_known[-1], values[-1], 0)
            index[-1] += 2
        if not is_known.all():
            np.copyto(index, 0, where=~is_known)
        index += self.offsets[:-1, None]
        return index

    def quanta(self, values: Reals) -> NDArray[np.float64]:
        """Return fixed-point values (whole numbers, exact in float64), 0 where missing."""
        is_known = np.isfinite(values)
        known = values if is_known.all() else np.where(is_known, values, np.float32(0))
        quanta: NDArray[np.float64] = known * self.scales[:, None]
        np.rint(quanta, out=quanta)
        return np.clip(quanta, -QUANTUM_MAX, QUANTUM_MAX, out=quanta)


@lru_cache(maxsize=64)
def layout_of(baseline: Baseline) -> Layout:
    """Return the layout of a baseline."""
    return Layout(baseline)


def _positions(baseline: Baseline, kind: ColumnKind) -> NDArray[np.int64]:
    return np.array(
        [column.position for column in baseline.columns if column.kind is kind], dtype=np.int64
    )
