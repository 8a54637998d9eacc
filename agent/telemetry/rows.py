"""What the journal's records mean: a model that is in use, a prediction, a label.

A prediction's row holds all that a restart needs to count it again: the scores and, for the rows
that the sketch counts, the watched features, as real values. How rows become segments stands in
`sealing`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_bundles.errors import Malformed

Reals = NDArray[np.float32]

_MODEL: Final = 1
_PREDICTION: Final = 2
_LABEL: Final = 3
_SHADOW: Final = 4
# kind, model, sequence, time_us, class, latency_us, scores, watched features
_PREDICTION_HEAD: Final = struct.Struct("<BHQQiIHH")
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
    """One answer. `watched` is empty for a row that the sketch does not count."""

    model: int
    sequence: int
    time_us: int
    predicted: int
    latency_us: int
    scores: Reals
    watched: Reals


class ShadowRow(NamedTuple):
    """What a shadow answered to the input of the live prediction with this sequence."""

    answer: PredictionRow


class LabelRow(NamedTuple):
    """One truth that was told later. `predicted` is -1 when the answer was no longer known."""

    model: int
    sequence: int
    time_us: int
    incarnation: str
    prediction: int
    label: int
    predicted: int


Row = ModelRow | PredictionRow | ShadowRow | LabelRow


def encode_model(row: ModelRow) -> bytes:
    """Return the record of a model."""
    return bytes([_MODEL]) + msgspec.msgpack.encode(row)


def encode_prediction(row: PredictionRow) -> bytes:
    """Return the record of a prediction."""
    model, sequence, time_us, predicted, latency_us, scores, watched = row
    head = _PREDICTION_HEAD.pack(
        _PREDICTION,
        model,
        sequence,
        time_us,
        predicted,
        latency_us,
        len(scores),
        len(watched),
    )
    return head + scores.tobytes() + watched.tobytes()


def encode_shadow(row: ShadowRow) -> bytes:
    """Return the record of a shadow's answer, in the shape of a prediction's."""
    return bytes([_SHADOW]) + encode_prediction(row.answer)[1:]


def encode_label(row: LabelRow) -> bytes:
    """Return the record of a label."""
    model, sequence, time_us, incarnation, prediction, label, predicted = row
    named = bytes.fromhex(incarnation)
    return _LABEL_ROW.pack(_LABEL, model, sequence, time_us, named, prediction, label, predicted)


def parse(record: bytes) -> Row:
    """Return the row of a record. Raises Malformed; the journal's checksum makes that a bug."""
    if not record:
        raise Malformed("a record of the journal is empty")
    try:
        if record[0] == _PREDICTION:
            return _prediction(record)
        if record[0] == _SHADOW:
            return ShadowRow(_prediction(record))
        if record[0] == _LABEL:
            _, model, sequence, time_us, named, *rest = _LABEL_ROW.unpack(record)
            return LabelRow(model, sequence, time_us, named.hex(), *rest)
        if record[0] == _MODEL:
            return msgspec.msgpack.decode(record[1:], type=ModelRow)
    except (struct.error, ValueError, msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"a record of the journal cannot be read: {error}") from error
    raise Malformed(f"the journal has a record of kind {record[0]}")


def _prediction(record: bytes) -> PredictionRow:
    head = _PREDICTION_HEAD.unpack_from(record)
    _, model, sequence, time_us, predicted, latency_us, scores, watched = head
    values = np.frombuffer(record, dtype=_FLOAT, offset=_PREDICTION_HEAD.size)
    if len(values) != scores + watched:
        raise Malformed("a prediction in the journal has another length than it says")
    return PredictionRow(
        model, sequence, time_us, predicted, latency_us, values[:scores], values[scores:]
    )
