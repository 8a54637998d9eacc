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
        widest = max((len(column.edges) for column in binned), default=0)
        # Values that are not finite count as missing, so that no value reaches the padding.
        self.edges = np.full((widest, len(binned)), np.inf, dtype=np.float32)
        for place, column in enumerate(binned):
            self.edges[: len(column.edges), place] = column.edges

    def values(self, watched: Reals, scores: Reals) -> Reals:
        """Return one row for each row (its features at `features`), one value for each column."""
        parts = [watched, scores[:, self.scores]]
        if self.has_answers:
            is_whole = np.isfinite(scores).all(axis=1)
            parts.append(np.where(is_whole, scores.max(axis=1), np.nan)[:, None])
            parts.append(np.where(is_whole, scores.argmax(axis=1), np.nan)[:, None])
        # Adding zero makes -0.0 and 0.0 one value: their order must not show in the minimum.
        return np.concatenate(parts, axis=1).astype(np.float32) + np.float32(0.0)

    def bins(self, values: Reals) -> NDArray[np.int64]:
        """Return the counter of every value: 0 missing, 1 below, 2.. the bins, the last above."""
        width = self.edges.shape[1]
        binned = np.ascontiguousarray(values[:, :width])
        passed = np.ones(binned.shape, dtype=np.uint8)
        for edges in self.edges:
            passed += binned >= edges
        index = np.ones(values.shape, dtype=np.int64)
        index[:, :width] = passed
        if self.has_answers:
            index[:, -1] = np.nan_to_num(values[:, -1]).astype(np.int64) + 2
        index[~np.isfinite(values)] = 0
        return index + self.offsets[:-1]

    def quanta(self, values: Reals) -> NDArray[np.float64]:
        """Return fixed-point values (whole numbers, exact in float64), 0 where missing."""
        known = np.where(np.isfinite(values), values, np.float32(0)).astype(np.float64)
        return np.clip(np.rint(known * self.scales), -QUANTUM_MAX, QUANTUM_MAX)


@lru_cache(maxsize=64)
def layout_of(baseline: Baseline) -> Layout:
    """Return the layout of a baseline."""
    return Layout(baseline)


def _positions(baseline: Baseline, kind: ColumnKind) -> NDArray[np.int64]:
    return np.array(
        [column.position for column in baseline.columns if column.kind is kind], dtype=np.int64
    )
