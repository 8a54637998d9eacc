"""Held-out data as a baseline needs it: what of it is inputs, scores, truth and time.

Arrays come from `tables`; what is counted of them is `sketches.baseline`'s affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from firmware_bundles import limits, tables
from firmware_bundles.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from firmware_bundles.sketches.baseline import Reals

Name = Annotated[str, Meta(min_length=1, max_length=63)]
Positive = Annotated[float, Meta(gt=0)]


class Declared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the owner says of the data and of the traffic to come.

    `inputs` are the arrays or columns that the model takes, in its order (none: all that are left),
    of tables as one tensor called `tensor`. `scores` are the columns of the classes' scores, or one
    array; `truth` names the right class, by name or place; `time` (seconds) orders the rows.
    `values` are business values with the largest magnitude that is expected, `largest` the same for
    features, whose fixed point follows from the data otherwise.
    """

    labels: tuple[str, ...] = ()
    tensor: str = "input"
    inputs: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    truth: str = ""
    time: str = ""
    bins: Annotated[int, Meta(ge=2, le=limits.BINS_MAX)] = 10
    stride: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    window_rows: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    segments: Annotated[tuple[Name, ...], Meta(max_length=limits.TRAFFIC_SEGMENTS_MAX - 1)] = ()
    values: Annotated[dict[Name, Positive], Meta(max_length=limits.VALUES_MAX)] = {}
    largest: dict[str, Positive] = {}
    cycle_s: Annotated[float, Meta(gt=0, le=366 * 86_400)] | None = None


class Rows(NamedTuple):
    """Rows of one stream: real inputs by tensor, scores [rows, classes], what is known beside.

    `names` are the features' own names, in order, empty where their places are all that is known.
    """

    inputs: dict[str, Reals]
    scores: Reals
    names: tuple[str, ...]
    truth: NDArray[np.int64] | None
    time: NDArray[np.float64] | None

    @property
    def features(self) -> Reals:
        """All inputs, flattened [rows, features]."""
        parts = [values.reshape(len(values), -1) for values in self.inputs.values()]
        whole: Reals = np.concatenate(parts, axis=1)
        return whole


def read(
    path: Path, declared: Declared, *, is_training: bool = False, has_scores: bool = True
) -> Rows:
    """Read one file; of training data inputs alone are wanted. Raises InputError, OSError.

    Without `has_scores` there are none yet: the model is asked later.
    """
    found = tables.read(path)
    _check_names(found, declared, path, is_training=is_training)
    beside = {declared.truth, declared.time, *declared.scores}
    chosen = declared.inputs or tuple(name for name in found if name not in beside)
    if not chosen:
        raise InputError(f"{path} has no inputs beside scores, truth and time")
    if tables.is_table(path):
        columns = np.stack([_numbers(found[name], name, path) for name in chosen], axis=1)
        inputs, names = {declared.tensor: columns.astype(np.float32)}, chosen
    else:
        real = {name: _numbers(found[name], name, path).astype(np.float32) for name in chosen}
        inputs, names = real, ()
    rows = len(next(iter(inputs.values())))
    scores = np.zeros((rows, 0), dtype=np.float32)
    truth = time = None
    if not is_training:
        scores = _scores(found, declared, rows, path) if has_scores else scores
        truth = _truth(found, declared, path) if declared.truth in found else None
        time = _numbers(found[declared.time], declared.time, path) if declared.time else None
    parts = [*inputs.values(), scores, *(each for each in (truth, time) if each is not None)]
    if {len(part) for part in parts} != {rows} or not rows:
        raise InputError(f"the arrays of {path} have no rows, or differ in their number")
    ordered = Rows(inputs, scores, names, truth, time)
    return ordered if time is None else _in_order(ordered, np.argsort(time, kind="stable"))


def joined(streams: Sequence[Rows]) -> Rows:
    """Return all rows of all files. Raises InputError where they do not fit."""
    first = streams[0]
    for other in streams[1:]:
        shapes = [
            {name: each.shape[1:] for name, each in rows.inputs.items()} for rows in (first, other)
        ]
        if shapes[0] != shapes[1] or (first.truth is None) != (other.truth is None):
            raise InputError("the files have other arrays or columns than the first one")
    return Rows(
        {name: np.concatenate([rows.inputs[name] for rows in streams]) for name in first.inputs},
        np.concatenate([rows.scores for rows in streams]),
        first.names,
        None if first.truth is None else np.concatenate([_known(rows.truth) for rows in streams]),
        None,
    )


def shared_rows(held_out: Reals, training: Reals) -> int:
    """Return how many held-out rows are, value for value, among those of the training."""
    if held_out.shape[1] != training.shape[1]:
        raise InputError(
            f"the training data have {training.shape[1]} features; held out are {held_out.shape[1]}"
        )
    known = {row.tobytes() for row in _plain(training)}
    return sum(row.tobytes() in known for row in _plain(held_out))


def _plain(values: Reals) -> Reals:
    """Return rows whose bytes are equal where their values are."""
    plain: Reals = np.ascontiguousarray(values, dtype=np.float32) + np.float32(0.0)
    return plain


def _check_names(
    found: Mapping[str, object], declared: Declared, path: Path, *, is_training: bool
) -> None:
    wanted = [*declared.inputs]
    if not is_training:
        wanted += [*declared.scores, *filter(None, (declared.truth, declared.time))]
    for name in wanted:
        if name not in found:
            some = ", ".join(list(found)[:12])
            raise InputError(f"{path} has no column or array {name!r:.80}; it has {some}")


def _scores(found: Mapping[str, NDArray[Any]], declared: Declared, rows: int, path: Path) -> Reals:
    if not declared.labels:
        return np.zeros((rows, 0), dtype=np.float32)
    if not declared.scores:
        raise InputError(
            f"the model names {len(declared.labels)} classes, and no scores are named",
            hint="Name the array, or a column for each class, with --scores; or give --model.",
        )
    parts = [_numbers(found[name], name, path) for name in declared.scores]
    scores = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
    scores = scores.reshape(len(scores), -1).astype(np.float32)
    if scores.shape[1] != len(declared.labels):
        raise InputError(
            f"{path} has {scores.shape[1]} scores a row; there are {len(declared.labels)} classes"
        )
    return scores


def _truth(found: Mapping[str, NDArray[Any]], declared: Declared, path: Path) -> NDArray[np.int64]:
    values = found[declared.truth]
    places = {label: at for at, label in enumerate(declared.labels)}
    if np.issubdtype(values.dtype, np.number) and (values == np.rint(values)).all():
        true = values.astype(np.int64)
    else:
        true = np.array([places.get(str(each), -1) for each in values.tolist()], dtype=np.int64)
    if values.ndim != 1 or not ((true >= 0) & (true < len(declared.labels))).all():
        raise InputError(
            f"{declared.truth!r} of {path} holds something that is none of the classes"
        )
    return true


def _numbers(values: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_) or np.iscomplexobj(
        values
    ):
        raise InputError(f"{name!r:.80} of {path} holds no real numbers")
    with np.errstate(over="ignore"):
        return values.astype(np.float64)


def _in_order(rows: Rows, order: NDArray[np.int64]) -> Rows:
    return Rows(
        {name: values[order] for name, values in rows.inputs.items()},
        rows.scores[order],
        rows.names,
        None if rows.truth is None else rows.truth[order],
        None if rows.time is None else rows.time[order],
    )


def _known(truth: NDArray[np.int64] | None) -> NDArray[np.int64]:
    assert truth is not None, "files were found alike"
    return truth
