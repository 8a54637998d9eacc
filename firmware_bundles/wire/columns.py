"""The bodies of prediction and label segments: columns, each beside its like, then compressed.

Needs numpy, so that the agent core never imports it: the core carries bodies and does not look
inside. All sizes are bounded before anything is allocated; what does not fit ends in Malformed.

    body         version byte, then a zlib stream (RFC 1950) of the columns
    predictions  LEB128: rows, scores a row; then sequence (first, differences less one), time
                 (differences), latency; uint16 classes and uint8 scores, transposed
    labels       LEB128: rows, incarnations; eight bytes for each incarnation; then sequence and
                 time as above, incarnation, the prediction's sequence; uint16 labels, predictions

Format 2 is written only where there is more. Predictions end with a byte for the segment of each
row. Labels begin with LEB128 rows, incarnations, names, values; after the incarnations stand the
names (`told_values`), after the prediction's sequence the entries, and at the end a byte for the
segment of each row, 255 where the device no longer knew the prediction.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bundles import limits
from firmware_bundles.errors import Malformed, VersionUnsupported
from firmware_bundles.wire import column_parts as parts_of
from firmware_bundles.wire import told_values, varints
from firmware_bundles.wire.compression import deflate, inflate
from firmware_bundles.wire.told_values import Values
from firmware_bundles.wire.varints import Integers

VERSION: Final = 1
VERSION_MORE: Final = 2
UNKNOWN: Final = parts_of.UNKNOWN
CLASS_MAX: Final = parts_of.CLASS_MAX
SEQUENCE_MAX: Final = parts_of.SEQUENCE_MAX
SCORES_PER_ROW_MAX: Final = 32

_NO_SEGMENT: Final = 255
_INCARNATION_BYTES: Final = 8


class Predictions(NamedTuple):
    """What a model answered, one entry a row, in order of `sequence` (ascending).

    `time_ms` counts from the segment's start and never falls; `latency_us`; `classes` are indices
    into the labels, UNKNOWN for a model without; `scores` [rows, n] are rint(255 * score).
    `segments` are places in the baseline's list, None where all are the first.
    """

    sequence: Integers
    time_ms: Integers
    classes: Integers
    latency_us: Integers
    scores: NDArray[np.uint8]
    segments: Integers | None = None

    @property
    def places(self) -> Integers:
        """The segment of each row."""
        return np.zeros_like(self.sequence) if self.segments is None else self.segments


class Labels(NamedTuple):
    """What was true, one entry a row, in order of `sequence` (ascending).

    A row names its prediction by `incarnations[incarnation]` and `prediction`. `predicted` is the
    class that was answered, UNKNOWN when the device no longer knew it. Since format 2 a row may
    have an UNKNOWN label and bring `values` only, and `segments` are the places of the predictions
    in the baseline's list, UNKNOWN where the device no longer knew them; None is format 1.
    """

    sequence: Integers
    time_ms: Integers
    incarnations: tuple[str, ...]
    incarnation: Integers
    prediction: Integers
    labels: Integers
    predicted: Integers
    segments: Integers | None = None
    values: Values = Values.none()

    @property
    def places(self) -> Integers:
        """The segment of each row's prediction, UNKNOWN where the device no longer knew it."""
        if self.segments is not None:
            return self.segments
        return np.where(self.predicted == UNKNOWN, UNKNOWN, 0)


def encode_predictions(rows: Predictions) -> bytes:
    """Return the body of a predictions segment."""
    count, width = rows.scores.shape
    assert 0 < count <= limits.ROWS_PER_SEGMENT_MAX, "the caller cuts segments"
    assert width <= SCORES_PER_ROW_MAX, "the caller chooses scores"
    numbers = np.concatenate(
        ([count, width], *parts_of.ordered(rows.sequence, rows.time_ms), rows.latency_us)
    )
    parts = varints.encode(numbers), parts_of.words(rows.classes), rows.scores.T.tobytes()
    if rows.places.any():
        return _body(*parts, _segment_bytes(rows.places), version=VERSION_MORE)
    return _body(*parts)


def decode_predictions(data: bytes) -> Predictions:
    """Parse the body of a predictions segment. Raises Malformed or VersionUnsupported."""
    what = "the predictions"
    plain = _plain(data, what)
    has_segments = data[0] == VERSION_MORE
    head, end = varints.decode(plain, 0, 2, what)
    count, width = _bounded(head, (limits.ROWS_PER_SEGMENT_MAX, SCORES_PER_ROW_MAX), what)
    numbers, end = varints.decode(plain, end, 3 * count, what)
    sequence, time_ms, latency_us = numbers.reshape(3, count)
    if len(plain) - end != count * (parts_of.WORD.itemsize + width + has_segments):
        raise Malformed(f"{what} have columns of unequal length")
    first = end + count * parts_of.WORD.itemsize
    scores = np.frombuffer(plain, dtype=np.uint8, offset=first, count=count * width)
    return Predictions(
        sequence=parts_of.sequence(sequence, what),
        time_ms=parts_of.times(time_ms, what),
        classes=parts_of.classes(plain, end, count),
        latency_us=parts_of.small(latency_us, what),
        scores=scores.reshape(width, count).T,
        segments=_known_segments(plain, count, what) if has_segments else None,
    )


def encode_labels(rows: Labels) -> bytes:
    """Return the body of a labels segment."""
    count = len(rows.sequence)
    assert 0 < count <= limits.ROWS_PER_SEGMENT_MAX, "the caller cuts segments"
    has_more = _has_more(rows)
    sizes = [count, len(rows.incarnations)]
    sizes += [len(rows.values.names), len(rows.values.row)] if has_more else []
    order = parts_of.ordered(rows.sequence, rows.time_ms)
    return _body(
        varints.encode(np.array(sizes)),
        b"".join(bytes.fromhex(each) for each in rows.incarnations),
        told_values.encode_names(rows.values) if has_more else b"",
        varints.encode(np.concatenate((*order, rows.incarnation, rows.prediction))),
        told_values.encode_entries(rows.values) if has_more else b"",
        parts_of.words(rows.labels),
        parts_of.words(rows.predicted),
        _segment_bytes(rows.places) if has_more else b"",
        version=VERSION_MORE if has_more else VERSION,
    )


def decode_labels(data: bytes) -> Labels:
    """Parse the body of a labels segment. Raises Malformed or VersionUnsupported."""
    what = "the labels"
    plain = _plain(data, what)
    has_more = data[0] == VERSION_MORE
    head, end = varints.decode(plain, 0, 4 if has_more else 2, what)
    rows_max = limits.ROWS_PER_SEGMENT_MAX
    count, incarnations = _bounded(head[:2], (rows_max, rows_max), what)
    names, end = _incarnations(plain, end, incarnations, what)
    values = Values.none()
    if has_more:
        values, end = told_values.read_names(plain, end, int(head[2]))
    numbers, end = varints.decode(plain, end, 4 * count, what)
    sequence, time_ms, incarnation, prediction = numbers.reshape(4, count)
    if has_more:
        values, end = told_values.read_entries(plain, end, int(head[3]), count, values)
    if len(plain) - end != count * (2 * parts_of.WORD.itemsize + has_more):
        raise Malformed(f"{what} have columns of unequal length")
    if (incarnation >= incarnations).any() or (prediction >= SEQUENCE_MAX).any():
        raise Malformed(f"{what} name a prediction that cannot be")
    rows = Labels(
        sequence=parts_of.sequence(sequence, what),
        time_ms=parts_of.times(time_ms, what),
        incarnations=names,
        incarnation=incarnation,
        prediction=prediction,
        labels=parts_of.classes(plain, end, count),
        predicted=parts_of.classes(plain, end + count * parts_of.WORD.itemsize, count),
        segments=_segments(plain, count, what) if has_more else None,
        values=values,
    )
    if not np.isin(np.flatnonzero(rows.labels == UNKNOWN), values.row).all():
        raise Malformed(f"{what} have a row without a label")
    return rows


def _has_more(rows: Labels) -> bool:
    """Whether format 1 cannot say it: a segment, a value, or a prediction without a class."""
    places = rows.places
    is_plain = (rows.labels != UNKNOWN).all() and not len(rows.values.row)
    return not (is_plain and np.array_equal(places, np.where(rows.predicted == UNKNOWN, -1, 0)))


def _incarnations(plain: bytes, start: int, count: int, what: str) -> tuple[tuple[str, ...], int]:
    end = start + count * _INCARNATION_BYTES
    table = plain[start:end]
    if len(table) < count * _INCARNATION_BYTES:
        raise Malformed(f"{what} are cut short")
    starts = range(0, len(table), _INCARNATION_BYTES)
    return tuple(table[at : at + _INCARNATION_BYTES].hex() for at in starts), end


def _body(*parts: bytes, version: int = VERSION) -> bytes:
    return bytes([version]) + deflate(b"".join(parts))


def _plain(data: bytes, what: str) -> bytes:
    if not data:
        raise Malformed(f"{what} are empty")
    if not VERSION <= data[0] <= VERSION_MORE:
        raise VersionUnsupported(
            f"{what} have format {data[0]}; this side reads up to {VERSION_MORE}"
        )
    return inflate(data[1:], limits.TELEMETRY_INFLATED_BYTES_MAX, what)


def _bounded(head: Integers, bounds: tuple[int, int], what: str) -> tuple[int, int]:
    count, width = (int(value) for value in head)
    if not 0 < count <= bounds[0] or width > bounds[1]:
        raise Malformed(f"{what} claim {count} rows of {width}; at most {bounds} are allowed")
    return count, width


def _segment_bytes(places: Integers) -> bytes:
    return np.where(places == UNKNOWN, _NO_SEGMENT, places).astype(np.uint8).tobytes()


def _segments(plain: bytes, count: int, what: str) -> Integers:
    """Read the segment of each row from the end of a body."""
    places = np.frombuffer(plain, np.uint8, count, len(plain) - count).astype(np.int64)
    if ((places >= limits.TRAFFIC_SEGMENTS_MAX) & (places != _NO_SEGMENT)).any():
        raise Malformed(f"{what} have a segment that cannot be")
    return np.where(places == _NO_SEGMENT, UNKNOWN, places)


def _known_segments(plain: bytes, count: int, what: str) -> Integers:
    places = _segments(plain, count, what)
    if (places == UNKNOWN).any():
        raise Malformed(f"{what} have a row without a segment")
    return places
