"""The body of a samples segment: inputs that were captured, with what was answered to them.

Needs numpy, as `columns`. All sizes are bounded before anything is allocated.

    body     version byte, then a zlib stream (RFC 1950) of the columns
    columns  LEB128: rows, scores a row, spans; first value and count of each span; then sequence
             (first, differences less one) and time (differences); one byte a row for the reasons;
             uint16 classes as in `columns`; little-endian float32 scores, then kept values,
             transposed
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from firmware_bundles import limits
from firmware_bundles.errors import Malformed, VersionUnsupported
from firmware_bundles.wire import column_parts, varints
from firmware_bundles.wire.compression import deflate, inflate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bundles.wire.varints import Integers

VERSION: Final = 1
SCORES_MAX: Final = 4096
_FLOAT: Final = np.dtype("<f4")
_POSITION_MAX: Final = 2**31


class Reason(IntFlag):
    """Why an input was captured."""

    SHARE = 1
    CONFIDENCE = 2
    RANGE = 4
    DRIFTED = 8


class Span(NamedTuple):
    """`length` values of the flattened inputs, from `first` on."""

    first: int
    length: int


class Samples(NamedTuple):
    """Captured inputs, one entry a row, in order of `sequence` (ascending): their predictions'.

    `time_ms` counts from the segment's start; `classes` are as in `Predictions`; `scores` is
    [rows, n], `values` [rows, m] with those of all `spans` one after another, real values.
    """

    sequence: Integers
    time_ms: Integers
    reasons: NDArray[np.uint8]
    classes: Integers
    spans: tuple[Span, ...]
    scores: NDArray[np.float32]
    values: NDArray[np.float32]


def encode_samples(rows: Samples) -> bytes:
    """Return the body of a samples segment."""
    count, width = rows.scores.shape
    assert 0 < count <= limits.ROWS_PER_SEGMENT_MAX, "the caller cuts segments"
    spans = [number for span in rows.spans for number in span]
    numbers = np.concatenate(
        ([count, width, len(rows.spans)], spans, *column_parts.ordered(rows.sequence, rows.time_ms))
    )
    parts = (
        varints.encode(numbers.astype(np.int64)),
        rows.reasons.astype(np.uint8).tobytes(),
        column_parts.words(rows.classes),
        rows.scores.astype(_FLOAT).T.tobytes(),
        rows.values.astype(_FLOAT).T.tobytes(),
    )
    return bytes([VERSION]) + deflate(b"".join(parts))


def decode_samples(data: bytes) -> Samples:
    """Parse the body of a samples segment. Raises Malformed or VersionUnsupported."""
    what = "the samples"
    plain = _plain(data, what)
    head, end = varints.decode(plain, 0, 3, what)
    count, width, spans = (int(value) for value in head)
    if (
        not 0 < count <= limits.ROWS_PER_SEGMENT_MAX
        or width > SCORES_MAX
        or not 0 < spans <= limits.CAPTURE_FIELDS_MAX
    ):
        raise Malformed(f"{what} claim {count} rows of {width} scores and {spans} spans")
    placed, end = varints.decode(plain, end, 2 * spans, what)
    kept = _spans(placed, what)
    numbers, end = varints.decode(plain, end, 2 * count, what)
    values = sum(span.length for span in kept)
    row_bytes = 1 + column_parts.WORD.itemsize + _FLOAT.itemsize * (width + values)
    if len(plain) - end != count * row_bytes:
        raise Malformed(f"{what} have columns of unequal length")
    after = end + count * (1 + column_parts.WORD.itemsize)
    reals = np.frombuffer(plain, dtype=_FLOAT, offset=after).astype(np.float32)
    return Samples(
        sequence=column_parts.sequence(numbers[:count], what),
        time_ms=column_parts.times(numbers[count:], what),
        reasons=np.frombuffer(plain, dtype=np.uint8, count=count, offset=end),
        classes=column_parts.classes(plain, end + count, count),
        spans=kept,
        scores=reals[: count * width].reshape(width, count).T,
        values=reals[count * width :].reshape(values, count).T,
    )


def _plain(data: bytes, what: str) -> bytes:
    if not data:
        raise Malformed(f"{what} are empty")
    if data[0] != VERSION:
        raise VersionUnsupported(f"{what} have format {data[0]}; this side reads {VERSION}")
    return inflate(data[1:], limits.TELEMETRY_INFLATED_BYTES_MAX, what)


def _spans(placed: Integers, what: str) -> tuple[Span, ...]:
    """Return the spans: ascending, none empty, none over another."""
    found = tuple(Span(int(first), int(length)) for first, length in placed.reshape(-1, 2))
    end = 0
    for span in found:
        if span.first < end or not 0 < span.length < _POSITION_MAX or span.first >= _POSITION_MAX:
            raise Malformed(f"{what} keep values that cannot be")
        end = span.first + span.length
    return found
