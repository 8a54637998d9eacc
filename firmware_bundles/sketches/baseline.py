"""The signed reference of a model.

Which columns are watched, with which bins, and what held-out rows gave.

A sketch (`sketch`) counts by the bins that stand here; how a baseline becomes a file of the bundle
stands in `codec`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from firmware_bundles import limits

SCHEMA = "1.0"

Reals = NDArray[np.float32]

ROWS_MAX = 2**27  # in one sketch: rows * QUANTUM_MAX**2 stays below 2**63
QUANTUM_MAX = (
    limits.QUANTUM_MAX
)  # fixed-point values saturate here: eight times the largest held-out value
CLASSES_MAX = 2**12
FEATURES_MAX = 1024  # of larger inputs evenly spaced ones are watched
CONFIDENCE_BINS = 20
ROWS_PER_BIN_MIN = 30
SCALE_BITS_MAX = limits.SCALE_BITS_MAX
SEGMENTS_MAX = limits.TRAFFIC_SEGMENTS_MAX
VALUES_MAX = limits.VALUES_MAX
CYCLE_S_MAX = 366 * 86_400

_QUANTUM_BITS = 15

Edges = Annotated[tuple[float, ...], Meta(min_length=2, max_length=CLASSES_MAX + 1)]
Counts = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=ROWS_MAX)], ...], Meta(max_length=CLASSES_MAX + 3)
]
Total = Annotated[int, Meta(gt=-(2**62), lt=2**62)]


class ColumnKind(StrEnum):
    """Where a column's values come from."""

    FEATURE = "feature"
    SCORE = "score"
    CONFIDENCE = "confidence"
    CLASS = "class"


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One watched quantity: the bins between `edges`, and what the held-out rows gave.

    `position` is the place in the flattened inputs (FEATURE) or among the scores (SCORE). A value v
    adds rint(v * `scale`) to `total` and its square to `total2`; `scale` is a power of two.
    `counts` are, in order: missing (not finite), below the first edge, one for each bin, at or
    above the last edge.
    """

    name: Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
    kind: ColumnKind
    position: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    edges: Edges
    scale: Annotated[float, Meta(ge=2.0**-SCALE_BITS_MAX, le=2.0**SCALE_BITS_MAX)]
    counts: Counts
    total: Total
    total2: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    minimum: float
    maximum: float


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A business value that feedback may bring; v adds rint(v * `scale`) to its sum."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.TEXT_CHARS_MAX)]
    scale: Annotated[float, Meta(ge=2.0**-SCALE_BITS_MAX, le=2.0**SCALE_BITS_MAX)]


class Baseline(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """What normal is for one model: `rows` held-out rows, counted as devices will count theirs.

    Every `stride`-th prediction is counted, a window closes after `window_rows` of them, and
    `segments` is the closed list of parts of the traffic whose answers are counted apart; the first
    is that of rows that name none. What normal repeats after `cycle_s` seconds (a day, say):
    windows that are tested span whole cycles. `right` are, for each counter of the confidence
    column, the held-out rows that were answered rightly: the calibration table of CBPE. What is not
    declared is left out of the bytes, so that baselines without it keep their name.
    """

    schema: str = SCHEMA
    rows: Annotated[int, Meta(ge=1, le=ROWS_MAX)]
    stride: Annotated[int, Meta(ge=1, le=2**20)]
    window_rows: Annotated[int, Meta(ge=1, le=2**20)]
    features: Annotated[int, Meta(ge=0, lt=2**31)]
    labels: Annotated[tuple[str, ...], Meta(max_length=CLASSES_MAX)]
    columns: Annotated[tuple[Column, ...], Meta(min_length=1, max_length=limits.COLUMNS_MAX)]
    segments: Annotated[tuple[str, ...], Meta(min_length=1, max_length=SEGMENTS_MAX)] = ("",)
    cycle_s: Annotated[float, Meta(gt=0, le=CYCLE_S_MAX)] | UnsetType = UNSET
    right: Counts | UnsetType = UNSET
    values: Annotated[tuple[Value, ...], Meta(max_length=VALUES_MAX)] | UnsetType = UNSET

    @property
    def declared(self) -> tuple[Value, ...]:
        """The business values, none if none are declared."""
        return () if self.values is UNSET else self.values


def make(
    inputs: Mapping[str, Reals],
    scores: Reals,
    labels: Sequence[str],
    *,
    bins: int = 10,
    stride: int = 1,
    truth: NDArray[np.int64] | None = None,
    names: Sequence[str] = (),
    largest: Mapping[str, float] | None = None,
) -> Baseline:
    """Return the baseline of held-out rows.

    `inputs` are the input tensors by name in the model's order, real values, rows first; `scores`
    is [rows, classes] with the names of the classes in `labels` (no classes: no columns about
    answers). `truth` are the right classes of the rows, from which the calibration table is fitted.
    `names` are those of the features, by tensor and place if there are none; `largest` declares the
    largest magnitude of some, that of the rows counts for the others.
    Raises ValueError when the arrays do not fit each other.
    """
    from firmware_bundles.sketches.sketch import Sketch

    rows = len(scores)
    if not rows or scores.ndim != 2 or scores.shape[1] != len(labels):  # noqa: PLR2004
        raise ValueError(f"scores of shape {scores.shape} do not fit {len(labels)} labels")
    if any(len(values) != rows for values in inputs.values()):
        raise ValueError("inputs and scores differ in their number of rows")
    features = np.concatenate([values.reshape(rows, -1) for values in inputs.values()], axis=1)
    found = _feature_columns(names or _places(inputs), features, bins)
    known = largest or {}
    found = [
        _with_largest(each, known[each.name]) if each.name in known else each for each in found
    ]
    columns = [*found, *_answer_columns(scores, labels, bins)]
    empty = Baseline(
        rows=rows,
        stride=stride,
        window_rows=ROWS_PER_BIN_MIN * bins,
        features=features.shape[1],
        labels=tuple(labels),
        columns=tuple(columns),
    )
    held_out = Sketch(empty)
    held_out.update(features, scores)
    full = msgspec.structs.replace(empty, columns=held_out.columns())
    if truth is None or not labels:
        return full
    if truth.shape != (rows,):
        raise ValueError(f"{truth.shape} true classes do not fit {rows} rows")
    right = Sketch(empty)
    is_right = scores.argmax(axis=1) == truth
    right.update(features[is_right], scores[is_right])
    return msgspec.structs.replace(full, right=right.columns()[-2].counts)


def _places(inputs: Mapping[str, Reals]) -> list[str]:
    return [
        f"{name}[{place}]"
        for name, values in inputs.items()
        for place in range(int(np.prod(values.shape[1:])))
    ]


def _feature_columns(names: Sequence[str], features: Reals, bins: int) -> list[Column]:
    count = features.shape[1]
    if len(names) != count:
        raise ValueError(f"{len(names)} names do not fit {count} features")
    watched = np.unique(np.linspace(0, count - 1, min(count, FEATURES_MAX)).astype(int)).tolist()
    edges = _edges_of_columns(features[:, watched], bins)
    return [
        _column(names[at], ColumnKind.FEATURE, at, features[:, at], edges[place])
        for place, at in enumerate(watched)
    ]


def _with_largest(column: Column, largest: float) -> Column:
    return msgspec.structs.replace(column, scale=scale_of(largest))


def _answer_columns(scores: Reals, labels: Sequence[str], bins: int) -> list[Column]:
    if not labels:
        return []
    confidence = scores.max(axis=1)
    classes = np.arange(len(labels) + 1, dtype=np.float32) - np.float32(0.5)
    edges = _edges_of_columns(scores[:, :FEATURES_MAX], bins)
    return [
        *(
            _column(label, ColumnKind.SCORE, at, scores[:, at], edges[at])
            for at, label in enumerate(labels[:FEATURES_MAX])
        ),
        _column(
            "confidence",
            ColumnKind.CONFIDENCE,
            0,
            confidence,
            _quantile_edges(confidence, CONFIDENCE_BINS),
        ),
        _column("class", ColumnKind.CLASS, 0, classes, classes),
    ]


def _column(name: str, kind: ColumnKind, position: int, values: Reals, edges: Reals) -> Column:
    return Column(
        name=name,
        kind=kind,
        position=position,
        edges=tuple(edges.tolist()),
        scale=_scale(values),
        counts=(),
        total=0,
        total2=0,
        minimum=0.0,
        maximum=0.0,
    )


def _edges_of_columns(values: Reals, bins: int) -> list[Reals]:
    """Return the edges of each column; all at once where no value is missing."""
    if np.isfinite(values).all():
        edges = _edges(values.astype(np.float32), bins)
        return [np.unique(edges[:, at]) for at in range(values.shape[1])]
    return [_quantile_edges(values[:, at], bins) for at in range(values.shape[1])]


def _quantile_edges(values: Reals, bins: int) -> Reals:
    finite = values[np.isfinite(values)].astype(np.float32)
    if not len(finite):
        finite = np.zeros(1, dtype=np.float32)
    return np.unique(_edges(finite[:, None], bins))


def _edges(values: Reals, bins: int) -> Reals:
    """Edges of about equally filled bins for each column of finite values, rising.

    The last stands just above the largest value, which is in range.
    """
    inner = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1], axis=0)
    top = np.nextafter(values.max(axis=0), np.float32(np.inf), dtype=np.float32)
    edges: Reals = np.vstack((values.min(axis=0), inner, top)).astype(np.float32) + np.float32(0.0)
    return edges


def _scale(values: Reals) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return scale_of(float(finite.max()) if len(finite) else 0.0)


def scale_of(largest: float) -> float:
    """Return the power of two that brings the largest magnitude to about 2**15 quanta."""
    exponent = np.ceil(np.log2(largest)) if largest > 0 else 0.0
    return float(2.0 ** np.clip(_QUANTUM_BITS - exponent, -SCALE_BITS_MAX, SCALE_BITS_MAX))
