"""The journal's records without a journal, and what they say, record by record."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from agent.store.journal import FRAME_BYTES, Block
from agent.telemetry import reading, rows
from agent.telemetry.answers import Answered, Answers, encode_shadows
from agent.telemetry.reading import Found
from agent.telemetry.rows import PredictionRow, Row
from firmware_bundles.errors import Malformed

_INCARNATION = "0123456789abcdef"
_HEAD = struct.Struct("<BHQQiIHH")


class ShadowRow(NamedTuple):
    """What a shadow answered to the input of the live prediction with this sequence."""

    answer: PredictionRow


def encode_shadow(row: ShadowRow) -> bytes:
    """Return the record of a shadow's answer."""
    (record,) = encode_shadows(row.answer.model, columns([row.answer]))
    return record


def columns(some: Sequence[PredictionRow]) -> Answers:
    """Return rows as columns, without going through a journal."""
    numbers = ("sequence", "time_us", "predicted", "latency_us", "segment")
    lists = {name: np.array([getattr(row, name) for row in some]) for name in numbers}
    return Answers(**lists, scores=np.stack([row.scores for row in some]))


def one_of_each() -> list[bytes]:
    """Return a record of each kind."""
    scores = np.array([0.1, 0.9], dtype=np.float32)
    prediction = PredictionRow(0, 1, 5, 1, 100, scores, scores)
    return [
        rows.encode_model(rows.ModelRow(index=0, family="digits", digest="d" * 64, baseline=b"x")),
        rows.encode_prediction(prediction),
        encode_shadow(ShadowRow(prediction)),
        rows.encode_label(rows.LabelRow(0, 2, 6, _INCARNATION, 1, 1, -1, -1)),
        rows.encode_prediction(prediction._replace(segment=3)),
        rows.encode_sample(rows.SampleRow(0, 1, 5, 1, 3, ((0, 1), (4, 1)), scores, scores)),
        rows.encode_label(
            rows.LabelRow(0, 3, 6, _INCARNATION, 1, -1, 1, 3, (rows.Given("revenue", 8, -5),))
        ),
    ]


def block(records: Sequence[bytes]) -> Block:
    """Return records as they are read from a file."""
    frames = [bytes(FRAME_BYTES) + record for record in records]
    return Block(b"".join(frames), 0, [*accumulate(map(len, frames))], 1, 0)


def read(records: Sequence[bytes]) -> Found:
    """Return what these records say, as the product reads them. Raises Malformed."""
    return reading.read([block(records)] if records else [])


def answered(some: Sequence[PredictionRow]) -> Answered:
    """Return rows of one model as columns."""
    (found,) = read([rows.encode_prediction(row) for row in some]).predictions.values()
    return found


def parse(record: bytes) -> Row | PredictionRow | ShadowRow:
    """Return the row of a record, read alone; answers the plain way. Raises Malformed."""
    if not record or record[0] not in {rows.PREDICTION, rows.PREDICTION_OF_SEGMENT, rows.SHADOW}:
        return rows.parse(record)
    try:
        if record[0] == rows.PREDICTION_OF_SEGMENT:
            row = _prediction(record[: _HEAD.size] + record[_HEAD.size + 1 :])
            return row._replace(segment=record[_HEAD.size])
        row = _prediction(record)
    except (struct.error, ValueError, IndexError) as error:
        raise Malformed(f"a record cannot be read: {error}") from error
    return ShadowRow(row) if record[0] == rows.SHADOW else row


def _prediction(record: bytes) -> PredictionRow:
    _, model, sequence, time_us, predicted, latency_us, scores, watched = _HEAD.unpack_from(record)
    values = np.frombuffer(record, dtype="<f4", offset=_HEAD.size)
    if len(values) != scores + watched or max(sequence, time_us) >= 2**63:
        raise Malformed("a prediction contradicts itself")
    return PredictionRow(
        model, sequence, time_us, predicted, latency_us, values[:scores], values[scores:]
    )
