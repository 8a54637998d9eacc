"""Segments as devices seal them, for tests of who receives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.columns import (
    UNKNOWN,
    Labels,
    Predictions,
    encode_labels,
    encode_predictions,
)
from firmware_bundles.wire.messages import Segment, SegmentKey, SegmentKind
from firmware_bundles.wire.samples import Reason, Samples, Span, encode_samples
from firmware_bundles.wire.told_values import Values

INCARNATION = "00000000000000aa"
MODEL = "a" * 64


def predictions(
    sequence: list[int],
    classes: list[int],
    *,
    incarnation: str = INCARNATION,
    model: str = MODEL,
    kind: SegmentKind = SegmentKind.PREDICTIONS,
    places: list[int] | None = None,
) -> Segment:
    """A segment of predictions, or of a shadow's answers, with these rows.

    `places` are the parts of the traffic that the requests named.
    """
    rows = Predictions(
        sequence=np.array(sequence),
        time_ms=np.arange(len(sequence)),
        classes=np.array(classes),
        latency_us=np.full(len(sequence), 150),
        scores=np.zeros((len(sequence), 2), dtype=np.uint8),
        segments=None if places is None else np.array(places),
    )
    body = encode_predictions(rows)
    return _segment(kind, sequence, body, incarnation, model)


def labels(
    sequence: list[int],
    of: list[int],
    true: list[int],
    *,
    predicted: list[int] | None = None,
    incarnation: str = INCARNATION,
    predicted_by: str = INCARNATION,
    model: str = MODEL,
) -> Segment:
    """A labels segment: `of` are the predictions' numbers; `predicted` None: not known any more."""
    rows = _rows(sequence, of, true, predicted)._replace(incarnations=(predicted_by,))
    return _segment(SegmentKind.LABELS, sequence, encode_labels(rows), incarnation, model)


def feedback(
    sequence: list[int],
    of: list[int],
    true: list[int],
    *,
    places: list[int],
    predicted: list[int] | None = None,
    values: Sequence[tuple[int, str, int]] = (),
) -> Segment:
    """A labels segment of format 2; `values` are row, name and quanta of 1/256, a label -1 none."""
    names = tuple(dict.fromkeys(name for _, name, _ in values))
    told = Values(
        names=names,
        exponents=(8,) * len(names),
        row=np.array([row for row, _, _ in values], dtype=np.int64),
        name=np.array([names.index(name) for _, name, _ in values], dtype=np.int64),
        quanta=np.array([quanta for _, _, quanta in values], dtype=np.int64),
    )
    rows = _rows(sequence, of, true, predicted)._replace(segments=np.array(places), values=told)
    return _segment(SegmentKind.LABELS, sequence, encode_labels(rows), INCARNATION, MODEL)


def window(number: int, body: bytes, rows: int, *, model: str = MODEL) -> Segment:
    """A window segment."""
    return Segment(
        key=SegmentKey(incarnation=INCARNATION, kind=SegmentKind.WINDOW, first=number, last=number),
        family="digits",
        model=model,
        rows=rows,
        started=1.0,
        ended=2.0,
        body=body,
    )


def samples(numbers: list[int], *, model: str = MODEL, classes: list[int] | None = None) -> Segment:
    """A segment of samples of two values."""
    count = len(numbers)
    body = encode_samples(
        Samples(
            sequence=np.array(numbers),
            time_ms=np.arange(count) * 1000,
            reasons=np.full(count, Reason.SHARE | Reason.CONFIDENCE, dtype=np.uint8),
            classes=np.array(classes or [1] * count),
            spans=(Span(0, 1), Span(3, 1)),
            scores=np.tile(np.array([0.25, 0.75], dtype=np.float32), (count, 1)),
            values=np.array([[n, -n] for n in numbers], dtype=np.float32),
        )
    )
    return Segment(
        key=SegmentKey(
            incarnation=INCARNATION,
            kind=SegmentKind.SAMPLES,
            first=numbers[0],
            last=numbers[-1],
        ),
        family="digits",
        model=model,
        rows=count,
        started=1_000.0,
        ended=1_009.0,
        body=body,
    )


def seal(device_id: str, key: bytes, sealed: Segment) -> bytes:
    """The payload that the device publishes."""
    return codec.seal(key, topics.up(device_id, topics.Up.TELEMETRY), sealed)


def _segment(
    kind: SegmentKind, sequence: list[int], body: bytes, incarnation: str, model: str
) -> Segment:
    return Segment(
        key=SegmentKey(incarnation=incarnation, kind=kind, first=sequence[0], last=sequence[-1]),
        family="digits",
        model=model,
        rows=len(sequence),
        started=1.0,
        ended=2.0,
        body=body,
    )


def _rows(
    sequence: list[int], of: list[int], true: list[int], predicted: list[int] | None
) -> Labels:
    count = len(sequence)
    return Labels(
        sequence=np.array(sequence),
        time_ms=np.arange(count),
        incarnations=(INCARNATION,),
        incarnation=np.zeros(count, dtype=np.int64),
        prediction=np.array(of),
        labels=np.array(true),
        predicted=np.array(predicted) if predicted is not None else np.full(count, UNKNOWN),
    )
