"""From captured inputs to sealed segments. Pure; beside `sealing`, which does the same for answers.

A segment must fit one message: samples are cut by their bytes. One that fits none is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from agent.telemetry.capture import bytes_of, day_of
from agent.telemetry.rows import SampleRow
from agent.telemetry.sealing import Model, order_of, segment_of
from firmware_bundles import limits
from firmware_bundles.wire import columns
from firmware_bundles.wire.messages import Segment, SegmentKind
from firmware_bundles.wire.samples import SCORES_MAX, Samples, Span, encode_samples

_US = 1_000_000


class Day(NamedTuple):
    """Bytes that a family's samples count in the budget of one local day."""

    family: str
    day: int
    bytes: int


class Sealed(NamedTuple):
    """The segments of samples, and how many samples are in none."""

    segments: list[Segment]
    dropped: int


def samples(incarnation: str, model: Model, rows: Sequence[SampleRow]) -> Sealed:
    """Return the segments of these samples of one model, in order of sequence."""
    fit = [row for row in rows if _size(row) <= limits.SAMPLES_BYTES_MAX and _is_sound(row)]
    parts = (
        part
        for _, run in groupby(fit, key=lambda row: (row.spans, len(row.scores)))
        for part in _parts(list(run))
    )
    return Sealed([_segment(incarnation, model, part) for part in parts], len(rows) - len(fit))


def days(model: Model, rows: Sequence[SampleRow]) -> list[Day]:
    """Return what samples count in the budgets of their days."""
    found: dict[int, int] = {}
    for row in rows:
        day = day_of(row.time_us / _US)
        found[day] = found.get(day, 0) + _size(row)
    return [Day(model.family, day, size) for day, size in found.items()]


def _size(row: SampleRow) -> int:
    return bytes_of(len(row.scores), len(row.values))


def _is_sound(row: SampleRow) -> bool:
    return 0 < len(row.spans) <= limits.CAPTURE_FIELDS_MAX and len(row.scores) <= SCORES_MAX


def _parts(rows: Sequence[SampleRow]) -> Iterator[Sequence[SampleRow]]:
    """Cut rows of one size so that each part fits a message, even if nothing can be compressed."""
    most = limits.SAMPLES_BYTES_MAX // _size(rows[0])
    most = min(most, limits.ROWS_PER_SEGMENT_MAX)
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


def _segment(incarnation: str, model: Model, rows: Sequence[SampleRow]) -> Segment:
    order = order_of(rows)
    found = Samples(
        sequence=order.sequence,
        time_ms=order.time_ms,
        reasons=np.array([row.reasons for row in rows], dtype=np.uint8),
        classes=np.array([min(row.predicted, columns.CLASS_MAX) for row in rows]),
        spans=tuple(Span(*span) for span in rows[0].spans),
        scores=np.stack([row.scores for row in rows]),
        values=np.stack([row.values for row in rows]),
    )
    return segment_of(incarnation, SegmentKind.SAMPLES, model, order, encode_samples(found))
