"""From rows to sealed segments and windows. Pure: rows in, values out, the time an argument.

Where rows come from, and where segments go, is `sealer`'s affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from agent.store.buffer import OpenWindow
from agent.telemetry.rows import LabelRow, PredictionRow, SampleRow
from firmware_bundles import limits
from firmware_bundles.sketches import codec as sketch_codec
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.wire import columns
from firmware_bundles.wire.messages import Segment, SegmentKey, SegmentKind
from firmware_bundles.wire.told_values import Values
from firmware_bundles.wire.totals import totals

_US: Final = 1_000_000
_SPAN_MS_MAX: Final = 2**32
_GOLDEN_RATIO: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)

RowT = TypeVar("RowT")
Rows = Sequence[PredictionRow] | Sequence[LabelRow] | Sequence[SampleRow]


class Model(NamedTuple):
    """Whose rows they are; `baseline` is None for a model that is not watched."""

    family: str
    digest: str
    baseline: Baseline | None


class Window(NamedTuple):
    """A run of counted rows of one model, from `first` to `last`, with their sketch."""

    model: Model
    first: int
    last: int
    started: float
    ended: float
    sketch: Sketch


class Windows(NamedTuple):
    """What counting rows led to: windows that are full, and the one that is still open."""

    closed: tuple[Window, ...]
    open: Window | None


class Split(NamedTuple):
    """Segments that leave the device, and such as are kept here for late labels only."""

    sent: list[Segment]
    kept: list[Segment]


def predictions(
    incarnation: str, model: Model, rows: Sequence[PredictionRow], share: float = 1.0
) -> Split:
    """Return the segments of these rows of one model, in order of sequence.

    Of each a share leaves, one row at least, and stands for all of them.
    """
    split = Split([], [])
    for part in _parts(rows):
        if share >= 1:
            split.sent.append(_predictions(incarnation, model, part))
            continue
        is_sent = sampled(incarnation, np.array([row.sequence for row in part]), share).tolist()
        some = [row for row, is_chosen in zip(part, is_sent, strict=True) if is_chosen]
        rest = [row for row, is_chosen in zip(part, is_sent, strict=True) if not is_chosen]
        sample = _predictions(incarnation, model, some)
        key = _key(incarnation, SegmentKind.PREDICTIONS, part[0].sequence, part[-1].sequence)
        adds_up = totals(np.array([row.latency_us for row in part]))
        split.sent.append(msgspec.structs.replace(sample, key=key, totals=adds_up))
        if rest:
            bare = [row._replace(scores=row.scores[:0], latency_us=0) for row in rest]
            split.kept.append(_predictions(incarnation, model, bare))
    return split


def sampled(incarnation: str, sequence: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Return which predictions are in the sample: a share of them, at least one.

    By a hash of their identity (splitmix64), so that sealing again chooses the same.
    """
    with np.errstate(over="ignore"):
        mixed = sequence.astype(np.uint64) * _GOLDEN_RATIO + np.uint64(int(incarnation, 16))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        mixed ^= mixed >> np.uint64(31)
    chance = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    is_in: NDArray[np.bool_] = chance < share
    is_in[np.argmin(chance)] = True
    return is_in


def stands_for(segment: Segment) -> int:
    """Return how many rows a segment stands for."""
    return segment.rows if segment.totals is UNSET else segment.totals.answered


def shadows(incarnation: str, model: Model, rows: Sequence[PredictionRow]) -> list[Segment]:
    """Return the segments of a shadow's answers, by the sequence of the live predictions."""
    kind = SegmentKind.SHADOW
    return [_predictions(incarnation, model, part, kind) for part in _parts(rows)]


def labels(incarnation: str, model: Model, rows: Sequence[LabelRow]) -> list[Segment]:
    """Return the segments of these labels of one model, in order of sequence."""
    parts = (part for some in _parts(rows) for part in _parts_by_values(some))
    return [_labels(incarnation, model, part) for part in parts]


def count(window: Window | None, model: Model, rows: Sequence[PredictionRow]) -> Windows:
    """Count the watched rows into the open window, and close it as often as it is full."""
    baseline = model.baseline
    pending = [row for row in rows if len(row.watched)]
    closed: list[Window] = []
    while pending and baseline is not None:
        sketch = window.sketch if window else Sketch(baseline)
        taken = pending[: baseline.window_rows - sketch.rows]
        pending = pending[len(taken) :]
        sketch.update_watched(
            np.stack([row.watched for row in taken]),
            np.stack([row.scores for row in taken]),
            np.array([row.segment for row in taken]) if len(baseline.segments) > 1 else None,
        )
        window = Window(
            model=model,
            first=window.first if window else taken[0].sequence,
            last=taken[-1].sequence,
            started=window.started if window else taken[0].time_us / _US,
            ended=taken[-1].time_us / _US,
            sketch=sketch,
        )
        if sketch.rows >= baseline.window_rows:
            closed.append(window)
            window = None
    return Windows(tuple(closed), window)


def checkpoint(window: Window) -> OpenWindow:
    """Return a window as the buffer keeps it while it is open."""
    return OpenWindow(
        family=window.model.family,
        model=window.model.digest,
        first=window.first,
        last=window.last,
        rows=window.sketch.rows,
        started=window.started,
        ended=window.ended,
        body=sketch_codec.encode_sketch(window.sketch),
    )


def window_segment(incarnation: str, window: OpenWindow) -> Segment:
    """Return the segment of a window that is closed now."""
    return Segment(
        key=_key(incarnation, SegmentKind.WINDOW, window.first, window.last),
        family=window.family,
        model=window.model,
        rows=window.rows,
        started=window.started,
        ended=window.ended,
        body=window.body,
    )


def _predictions(
    incarnation: str,
    model: Model,
    rows: Sequence[PredictionRow],
    kind: SegmentKind = SegmentKind.PREDICTIONS,
) -> Segment:
    numbers = np.array(
        [(row.sequence, row.time_us, row.predicted, row.latency_us, row.segment) for row in rows]
    ).T
    sequence, time_us, classes, latency_us, segments = numbers
    scores = np.frombuffer(b"".join([row.scores.tobytes() for row in rows]), dtype=np.float32)
    body = columns.encode_predictions(
        columns.Predictions(
            sequence=sequence,
            time_ms=_time_ms(time_us),
            classes=np.minimum(classes, columns.CLASS_MAX),
            latency_us=latency_us,
            scores=_coarse(scores.reshape(len(rows), len(rows[0].scores))),
            segments=segments,
        )
    )
    return segment_of(incarnation, kind, model, rows, body)


def _labels(incarnation: str, model: Model, rows: Sequence[LabelRow]) -> Segment:
    names = tuple(dict.fromkeys(row.incarnation for row in rows))
    body = columns.encode_labels(
        columns.Labels(
            sequence=np.array([row.sequence for row in rows]),
            time_ms=time_ms_of(rows),
            incarnations=names,
            incarnation=np.array([names.index(row.incarnation) for row in rows]),
            prediction=np.array([row.prediction for row in rows]),
            labels=np.array([row.label for row in rows]),
            predicted=np.array([row.predicted for row in rows]),
            segments=np.array([row.segment for row in rows]),
            values=_values(rows),
        )
    )
    return segment_of(incarnation, SegmentKind.LABELS, model, rows, body)


def _values(rows: Sequence[LabelRow]) -> Values:
    scales = {given.name: given.exponent for row in rows for given in row.values}
    names = tuple(scales)
    told = [
        (at, names.index(given.name), given.quanta)
        for at, row in enumerate(rows)
        for given in row.values
    ]
    row, name, quanta = np.array(sorted(told), dtype=np.int64).reshape(-1, 3).T
    return Values(names, tuple(scales.values()), row, name, quanta)


def _parts_by_values(rows: Sequence[LabelRow]) -> Iterator[Sequence[LabelRow]]:
    """Cut where a segment would hold too many values, or one name in two scales."""
    start = count = 0
    scales: dict[str, int] = {}
    for at, row in enumerate(rows):
        is_other = any(scales.get(name, exponent) != exponent for name, exponent, _ in row.values)
        if at > start and (is_other or count + len(row.values) > limits.VALUES_PER_SEGMENT_MAX):
            yield rows[start:at]
            start, count, scales = at, 0, {}
        count += len(row.values)
        scales |= {name: exponent for name, exponent, _ in row.values}
    yield rows[start:]


def segment_of(
    incarnation: str, kind: SegmentKind, model: Model, rows: Rows, body: bytes
) -> Segment:
    """Return the segment of rows, in order of sequence, that `body` holds."""
    return Segment(
        key=_key(incarnation, kind, rows[0].sequence, rows[-1].sequence),
        family=model.family,
        model=model.digest,
        rows=len(rows),
        started=rows[0].time_us / _US,
        ended=max(row.time_us for row in rows) / _US,
        body=body,
    )


def _key(incarnation: str, kind: SegmentKind, first: int, last: int) -> SegmentKey:
    return SegmentKey(incarnation=incarnation, kind=kind, first=first, last=last)


def time_ms_of(rows: Rows) -> NDArray[np.int64]:
    """Return the times of rows since the first of them, in milliseconds, never falling."""
    return _time_ms(np.array([row.time_us for row in rows]))


def _time_ms(time_us: NDArray[np.int64]) -> NDArray[np.int64]:
    # A clock that is set right in the middle must not make a segment of fifty years.
    offsets: NDArray[np.int64] = np.maximum.accumulate(time_us - time_us[0])
    return np.minimum(offsets // 1000, _SPAN_MS_MAX)


def _coarse(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return rint(255 * score); of very many scores only the largest."""
    known: NDArray[np.float32] = np.where(np.isnan(scores), np.float32(0), scores)
    known = np.clip(known, 0.0, 1.0)
    if known.shape[1] > columns.SCORES_PER_ROW_MAX:
        known = known.max(axis=1, keepdims=True)
    return np.rint(known * 255).astype(np.uint8)


def _parts(rows: Sequence[RowT]) -> Iterator[Sequence[RowT]]:
    for start in range(0, len(rows), limits.ROWS_PER_SEGMENT_MAX):
        yield rows[start : start + limits.ROWS_PER_SEGMENT_MAX]
