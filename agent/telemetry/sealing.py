"""From answers and labels to sealed segments and windows. Pure: the time is an argument.

Where they come from, and where segments go, is `sealer`'s affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from agent.store.buffer import OpenWindow
from agent.telemetry.answers import Answers, Watched
from agent.telemetry.rows import LabelRow, SampleRow
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

Integers = NDArray[np.int64]


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


class Order(NamedTuple):
    """When rows came: their numbers, ascending, and their times."""

    sequence: Integers
    time_us: Integers

    @property
    def time_ms(self) -> Integers:
        """The times since the first of them, in milliseconds, never falling."""
        # A clock that is set right in the middle must not make a segment of fifty years.
        offsets: Integers = np.maximum.accumulate(self.time_us - self.time_us[0])
        return np.minimum(offsets // 1000, _SPAN_MS_MAX)


class Split(NamedTuple):
    """Segments that leave the device, and such as are kept here for late labels only."""

    sent: list[Segment]
    kept: list[Segment]


def predictions(incarnation: str, model: Model, answered: Answers, share: float = 1.0) -> Split:
    """Return the segments of these answers of one model, in order of sequence.

    Of each a share leaves, one row at least, and stands for all of them.
    """
    split = Split([], [])
    for part in _parts(answered):
        if share >= 1:
            split.sent.append(_predictions(incarnation, model, part))
            continue
        is_sent = sampled(incarnation, part.sequence, share)
        sample = _predictions(incarnation, model, part.take(is_sent))
        key = _key(incarnation, SegmentKind.PREDICTIONS, part.sequence)
        adds_up = totals(part.latency_us)
        split.sent.append(msgspec.structs.replace(sample, key=key, totals=adds_up))
        if not is_sent.all():
            rest = part.take(~is_sent)
            bare = rest._replace(
                scores=rest.scores[:, :0], latency_us=np.zeros_like(rest.latency_us)
            )
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


def shadows(incarnation: str, model: Model, mirrored: Answers) -> list[Segment]:
    """Return the segments of a shadow's answers, by the sequence of the live predictions."""
    kind = SegmentKind.SHADOW
    return [_predictions(incarnation, model, part, kind) for part in _parts(mirrored)]


def labels(incarnation: str, model: Model, rows: Sequence[LabelRow]) -> list[Segment]:
    """Return the segments of these labels of one model, in order of sequence."""
    starts = range(0, len(rows), limits.ROWS_PER_SEGMENT_MAX)
    some = (rows[start : start + limits.ROWS_PER_SEGMENT_MAX] for start in starts)
    parts = (part for each in some for part in _parts_by_values(each))
    return [_labels(incarnation, model, part) for part in parts]


def count(window: Window | None, model: Model, watched: Watched) -> Windows:
    """Count the watched rows into the open window, and close it as often as it is full."""
    baseline = model.baseline
    closed: list[Window] = []
    if baseline is None:
        return Windows((), window)
    has_segments = len(baseline.segments) > 1
    while len(watched.features):
        sketch = window.sketch if window else Sketch(baseline)
        room = baseline.window_rows - sketch.rows
        answers, features = watched.take(slice(room))
        watched = watched.take(slice(room, None))
        sketch.update_watched(features, answers.scores, answers.segment if has_segments else None)
        window = Window(
            model=model,
            first=window.first if window else int(answers.sequence[0]),
            last=int(answers.sequence[-1]),
            started=window.started if window else int(answers.time_us[0]) / _US,
            ended=int(answers.time_us[-1]) / _US,
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
        key=SegmentKey(
            incarnation=incarnation,
            kind=SegmentKind.WINDOW,
            first=window.first,
            last=window.last,
        ),
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
    answered: Answers,
    kind: SegmentKind = SegmentKind.PREDICTIONS,
) -> Segment:
    order = Order(answered.sequence, answered.time_us)
    body = columns.encode_predictions(
        columns.Predictions(
            sequence=answered.sequence,
            time_ms=order.time_ms,
            classes=np.minimum(answered.predicted, columns.CLASS_MAX),
            latency_us=answered.latency_us,
            scores=_coarse(answered.scores),
            segments=answered.segment,
        )
    )
    return segment_of(incarnation, kind, model, order, body)


def _labels(incarnation: str, model: Model, rows: Sequence[LabelRow]) -> Segment:
    names = tuple(dict.fromkeys(row.incarnation for row in rows))
    order = order_of(rows)
    body = columns.encode_labels(
        columns.Labels(
            sequence=order.sequence,
            time_ms=order.time_ms,
            incarnations=names,
            incarnation=np.array([names.index(row.incarnation) for row in rows]),
            prediction=np.array([row.prediction for row in rows]),
            labels=np.array([row.label for row in rows]),
            predicted=np.array([row.predicted for row in rows]),
            segments=np.array([row.segment for row in rows]),
            values=_values(rows),
        )
    )
    return segment_of(incarnation, SegmentKind.LABELS, model, order, body)


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


def order_of(rows: Sequence[LabelRow] | Sequence[SampleRow]) -> Order:
    """Return when rows came that were read one by one."""
    return Order(np.array([row.sequence for row in rows]), np.array([row.time_us for row in rows]))


def segment_of(
    incarnation: str, kind: SegmentKind, model: Model, order: Order, body: bytes
) -> Segment:
    """Return the segment of the rows that `body` holds."""
    return Segment(
        key=_key(incarnation, kind, order.sequence),
        family=model.family,
        model=model.digest,
        rows=len(order.sequence),
        started=int(order.time_us[0]) / _US,
        ended=int(order.time_us.max()) / _US,
        body=body,
    )


def _key(incarnation: str, kind: SegmentKind, sequence: Integers) -> SegmentKey:
    first, last = int(sequence[0]), int(sequence[-1])
    return SegmentKey(incarnation=incarnation, kind=kind, first=first, last=last)


def _coarse(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return rint(255 * score); of very many scores only the largest."""
    known: NDArray[np.float32] = np.where(np.isnan(scores), np.float32(0), scores)
    known = np.clip(known, 0.0, 1.0)
    if known.shape[1] > columns.SCORES_PER_ROW_MAX:
        known = known.max(axis=1, keepdims=True)
    return np.rint(known * 255).astype(np.uint8)


def _parts(answered: Answers) -> Iterator[Answers]:
    for start in range(0, len(answered.sequence), limits.ROWS_PER_SEGMENT_MAX):
        yield answered.take(slice(start, start + limits.ROWS_PER_SEGMENT_MAX))
