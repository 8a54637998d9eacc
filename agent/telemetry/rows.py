"""What the journal's records mean: a model that is in use, a prediction, feedback.

A prediction's row holds all that a restart needs to count it again: the scores and, for the rows
that the sketch counts, the watched features, as real values. Records of predictions and shadows
are read in `answers`, many at once. How rows become segments stands in `sealing`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_bundles.errors import Malformed

Reals = NDArray[np.float32]

MODEL: Final = 1
PREDICTION: Final = 2
_LABEL: Final = 3
SHADOW: Final = 4
PREDICTION_OF_SEGMENT: Final = 5
_FEEDBACK: Final = 6
_SAMPLE: Final = 7
# kind, model, sequence, time_us, class, latency_us, scores, watched features
_PREDICTION_HEAD: Final = struct.Struct("<BHQQiIHH")
# kind, model, sequence, time_us, class, reasons, scores, spans, kept values
_SAMPLE_HEAD: Final = struct.Struct("<BHQQiBHHI")
_SPAN: Final = struct.Struct("<II")
# kind, model, sequence, time_us, incarnation of the prediction, its sequence, label, predicted
_LABEL_ROW: Final = struct.Struct("<BHQQ8sQii")
_FLOAT: Final = np.dtype("<f4")


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with this `index` are of this model; `baseline` is the bundle's file, empty if none."""

    index: int
    family: str
    digest: str
    baseline: bytes = b""


class PredictionRow(NamedTuple):
    """One answer. `watched` is empty for a row that the sketch does not count.

    `segment` is the place of what the request named in the baseline's list.
    """

    model: int
    sequence: int
    time_us: int
    predicted: int
    latency_us: int
    scores: Reals
    watched: Reals
    segment: int = 0


class SampleRow(NamedTuple):
    """A captured input: the kept `values` of the `spans`, one after another, and its answer."""

    model: int
    sequence: int
    time_us: int
    predicted: int
    reasons: int
    spans: tuple[tuple[int, int], ...]
    scores: Reals
    values: Reals


class Given(NamedTuple):
    """A business value: `quanta` of 2 ** -`exponent`, as the baseline declares it."""

    name: str
    exponent: int
    quanta: int


class LabelRow(NamedTuple):
    """What feedback told of one prediction: a label, -1 without one, and business values.

    `predicted` is -1 when no class was answered; so is `segment`, and `predicted` with it, when the
    answer was no longer known.
    """

    model: int
    sequence: int
    time_us: int
    incarnation: str
    prediction: int
    label: int
    predicted: int
    segment: int = 0
    values: tuple[Given, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it is a label alone, of the first segment or of a forgotten prediction."""
        forgotten = -1 if self.predicted == -1 else 0
        return self.label >= 0 and not self.values and self.segment == forgotten


Row = ModelRow | LabelRow | SampleRow


def encode_model(row: ModelRow) -> bytes:
    """Return the record of a model."""
    return bytes([MODEL]) + msgspec.msgpack.encode(row)


def is_model(record: bytes) -> bool:
    """Whether a record says what a model is, and is no row."""
    return record[0] == MODEL


def encode_prediction(row: PredictionRow) -> bytes:
    """Return the record of a prediction."""
    model, sequence, time_us, predicted, latency_us, scores, watched, segment = row
    head = _PREDICTION_HEAD.pack(
        PREDICTION_OF_SEGMENT if segment else PREDICTION,
        model,
        sequence,
        time_us,
        predicted,
        latency_us,
        len(scores),
        len(watched),
    )
    if segment:
        return head + bytes([segment]) + scores.tobytes() + watched.tobytes()
    return head + scores.tobytes() + watched.tobytes()


def encode_sample(row: SampleRow) -> bytes:
    """Return the record of a captured input."""
    model, sequence, time_us, predicted, reasons, spans, scores, values = row
    head = _SAMPLE_HEAD.pack(
        *(_SAMPLE, model, sequence, time_us, predicted, reasons),
        *(len(scores), len(spans), len(values)),
    )
    placed = b"".join(_SPAN.pack(*span) for span in spans)
    return head + placed + scores.tobytes() + values.tobytes()


def encode_label(row: LabelRow) -> bytes:
    """Return the record of feedback."""
    if not row.is_plain:
        return bytes([_FEEDBACK]) + msgspec.msgpack.encode(row)
    model, sequence, time_us, incarnation, prediction, label, predicted, _, _ = row
    named = bytes.fromhex(incarnation)
    return _LABEL_ROW.pack(_LABEL, model, sequence, time_us, named, prediction, label, predicted)


def parse(record: bytes) -> Row:
    """Return the row of a record that is no answer's (see `answers`).

    Raises Malformed; the journal's checksum makes that a bug.
    """
    if not record:
        raise Malformed("a record of the journal is empty")
    try:
        if record[0] == _LABEL:
            _, model, sequence, time_us, named, *rest = _LABEL_ROW.unpack(record)
            segment = -1 if rest[-1] == -1 else 0
            return LabelRow(model, sequence, time_us, named.hex(), *rest)._replace(segment=segment)
        if record[0] == _FEEDBACK:
            return msgspec.msgpack.decode(record[1:], type=LabelRow)
        if record[0] == _SAMPLE:
            return _sample(record)
        if record[0] == MODEL:
            return msgspec.msgpack.decode(record[1:], type=ModelRow)
    except (struct.error, ValueError, IndexError, msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"a record of the journal cannot be read: {error}") from error
    raise Malformed(f"the journal has a record of kind {record[0]}")


def _sample(record: bytes) -> SampleRow:
    head = _SAMPLE_HEAD.unpack_from(record)
    _, model, sequence, time_us, predicted, reasons, scores, spans, kept = head
    end = _SAMPLE_HEAD.size + spans * _SPAN.size
    placed = tuple(_SPAN.iter_unpack(record[_SAMPLE_HEAD.size : end]))
    reals = np.frombuffer(record, dtype=_FLOAT, offset=end)
    if len(reals) != scores + kept or sum(length for _, length in placed) != kept:
        raise Malformed("a sample in the journal has another length than it says")
    return SampleRow(
        *(model, sequence, time_us, predicted, reasons, placed),
        scores=reals[:scores],
        values=reals[scores:],
    )
