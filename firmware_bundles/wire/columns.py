"""The bodies of prediction and label segments: columns, each beside its like, then compressed.

Needs numpy, so that the agent core never imports it: the core carries bodies and does not look
inside. All sizes are bounded before anything is allocated; what does not fit ends in Malformed.

    body         version byte, then a zlib stream (RFC 1950) of the columns
    predictions  LEB128: rows, scores a row; then sequence (first, differences less one), time
                 (differences), latency; uint16 classes and uint8 scores, transposed
    labels       LEB128: rows, incarnations; eight bytes for each incarnation; then sequence and
                 time as above, incarnation, the prediction's sequence; uint16 labels, predictions
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bundles import limits
from firmware_bundles.errors import Malformed, VersionUnsupported
from firmware_bundles.wire import varints
from firmware_bundles.wire.compression import deflate, inflate
from firmware_bundles.wire.varints import Integers

VERSION: Final = 1
UNKNOWN: Final = -1
CLASS_MAX: Final = 2**16 - 2
SCORES_PER_ROW_MAX: Final = 32

_NONE: Final = 2**16 - 1  # how UNKNOWN is written
_INCARNATION_BYTES: Final = 8
SEQUENCE_MAX: Final = 2**53
_WORD: Final = np.dtype("<u2")


class Predictions(NamedTuple):
    """What a model answered, one entry a row, in order of `sequence` (ascending).

    `time_ms` counts from the segment's start and never falls; `latency_us`; `classes` are indices
    into the labels, UNKNOWN for a model without; `scores` [rows, n] are rint(255 * score).
    """

    sequence: Integers
    time_ms: Integers
    classes: Integers
    latency_us: Integers
    scores: NDArray[np.uint8]


class Labels(NamedTuple):
    """What was true, one entry a row, in order of `sequence` (ascending).

    A row names its prediction by `incarnations[incarnation]` and `prediction`. `predicted` is the
    class that was answered, UNKNOWN when the device no longer knew it.
    """

    sequence: Integers
    time_ms: Integers
    incarnations: tuple[str, ...]
    incarnation: Integers
    prediction: Integers
    labels: Integers
    predicted: Integers


def encode_predictions(rows: Predictions) -> bytes:
    """Return the body of a predictions segment."""
    count, width = rows.scores.shape
    assert 0 < count <= limits.ROWS_PER_SEGMENT_MAX, "the caller cuts segments"
    assert width <= SCORES_PER_ROW_MAX, "the caller chooses scores"
    numbers = np.concatenate(([count, width], *_ordered(rows), rows.latency_us))
    return _body(varints.encode(numbers), _words(rows.classes), rows.scores.T.tobytes())


def decode_predictions(data: bytes) -> Predictions:
    """Parse the body of a predictions segment. Raises Malformed or VersionUnsupported."""
    what = "the predictions"
    plain = _plain(data, what)
    head, end = varints.decode(plain, 0, 2, what)
    count, width = _bounded(head, (limits.ROWS_PER_SEGMENT_MAX, SCORES_PER_ROW_MAX), what)
    numbers, end = varints.decode(plain, end, 3 * count, what)
    sequence, time_ms, latency_us = numbers.reshape(3, count)
    if len(plain) - end != count * (_WORD.itemsize + width):
        raise Malformed(f"{what} have columns of unequal length")
    scores = np.frombuffer(plain, dtype=np.uint8, offset=end + count * _WORD.itemsize)
    return Predictions(
        sequence=_sequence(sequence, what),
        time_ms=_times(time_ms, what),
        classes=_classes(plain, end, count),
        latency_us=_small(latency_us, what),
        scores=scores.reshape(width, count).T,
    )


def encode_labels(rows: Labels) -> bytes:
    """Return the body of a labels segment."""
    count = len(rows.sequence)
    assert 0 < count <= limits.ROWS_PER_SEGMENT_MAX, "the caller cuts segments"
    head = varints.encode(np.array([count, len(rows.incarnations)]))
    numbers = np.concatenate((*_ordered(rows), rows.incarnation, rows.prediction))
    return _body(
        head,
        b"".join(bytes.fromhex(each) for each in rows.incarnations),
        varints.encode(numbers),
        _words(rows.labels),
        _words(rows.predicted),
    )


def decode_labels(data: bytes) -> Labels:
    """Parse the body of a labels segment. Raises Malformed or VersionUnsupported."""
    what = "the labels"
    plain = _plain(data, what)
    head, end = varints.decode(plain, 0, 2, what)
    rows_max = limits.ROWS_PER_SEGMENT_MAX
    count, names = _bounded(head, (rows_max, rows_max), what)
    names_end = end + names * _INCARNATION_BYTES
    table = plain[end:names_end]
    if len(table) < names * _INCARNATION_BYTES:
        raise Malformed(f"{what} are cut short")
    numbers, end = varints.decode(plain, names_end, 4 * count, what)
    sequence, time_ms, incarnation, prediction = numbers.reshape(4, count)
    if len(plain) - end != 2 * count * _WORD.itemsize:
        raise Malformed(f"{what} have columns of unequal length")
    if (incarnation >= names).any() or (prediction >= SEQUENCE_MAX).any():
        raise Malformed(f"{what} name a prediction that cannot be")
    labels = _classes(plain, end, count)
    if (labels == UNKNOWN).any():
        raise Malformed(f"{what} have a row without a label")
    return Labels(
        sequence=_sequence(sequence, what),
        time_ms=_times(time_ms, what),
        incarnations=tuple(
            table[start : start + _INCARNATION_BYTES].hex()
            for start in range(0, len(table), _INCARNATION_BYTES)
        ),
        incarnation=incarnation,
        prediction=prediction,
        labels=labels,
        predicted=_classes(plain, end + count * _WORD.itemsize, count),
    )


def _body(*parts: bytes) -> bytes:
    return bytes([VERSION]) + deflate(b"".join(parts))


def _plain(data: bytes, what: str) -> bytes:
    if not data:
        raise Malformed(f"{what} are empty")
    if data[0] != VERSION:
        raise VersionUnsupported(f"{what} have format {data[0]}; this side reads {VERSION}")
    return inflate(data[1:], limits.TELEMETRY_INFLATED_BYTES_MAX, what)


def _ordered(rows: Predictions | Labels) -> tuple[Integers, Integers]:
    """Return the differences of sequence (less one) and time."""
    sequence = np.concatenate((rows.sequence[:1], np.diff(rows.sequence) - 1))
    return sequence, np.concatenate((rows.time_ms[:1], np.diff(rows.time_ms)))


def _bounded(head: Integers, bounds: tuple[int, int], what: str) -> tuple[int, int]:
    count, width = (int(value) for value in head)
    if not 0 < count <= bounds[0] or width > bounds[1]:
        raise Malformed(f"{what} claim {count} rows of {width}; at most {bounds} are allowed")
    return count, width


def _sequence(differences: Integers, what: str) -> Integers:
    if (differences >= SEQUENCE_MAX).any():
        raise Malformed(f"{what} have a sequence number that is too large")
    values = np.cumsum(differences) + np.arange(len(differences))
    if values[0] < 1 or values[-1] >= SEQUENCE_MAX:
        raise Malformed(f"{what} have a sequence number that cannot be")
    return values


def _times(differences: Integers, what: str) -> Integers:
    return np.cumsum(_small(differences, what))


def _small(values: Integers, what: str) -> Integers:
    """Times that a segment can span: below 2**40, so that their sum is exact."""
    if (values >= 2**40).any():
        raise Malformed(f"{what} have a time that cannot be")
    return values


def _words(values: Integers) -> bytes:
    """Return UNKNOWN or 0..CLASS_MAX as uint16, low bytes first, then high bytes."""
    words = np.where(values == UNKNOWN, _NONE, values).astype(_WORD)
    return words.view(np.uint8).reshape(-1, _WORD.itemsize).T.tobytes()


def _classes(plain: bytes, start: int, count: int) -> Integers:
    low, high = np.frombuffer(plain, np.uint8, _WORD.itemsize * count, start).reshape(2, count)
    values = low.astype(np.int64) | high.astype(np.int64) << 8
    return np.where(values == _NONE, UNKNOWN, values)
