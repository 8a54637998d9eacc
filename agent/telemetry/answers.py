"""Answers as columns: the journal's records of predictions and of shadows, many at once. Pure.

A record's bytes are those of `rows.encode_prediction`, a shadow's but for its kind. One by one they
would cost more than all that is made of them later.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.telemetry import rows
from firmware_bundles.errors import Malformed

Reals = NDArray[np.float32]
Integers = NDArray[np.int64]
Chosen = slice | NDArray[np.bool_] | Integers

_HEAD: Final = np.dtype(
    [
        ("kind", "u1"),
        ("model", "<u2"),
        ("sequence", "<u8"),
        ("time_us", "<u8"),
        ("predicted", "<i4"),
        ("latency_us", "<u4"),
        ("scores", "<u2"),
        ("watched", "<u2"),
    ]
)
_REAL: Final = np.dtype("<f4")
_SIGN: Final = np.uint64(2**63)


class Payloads(NamedTuple):
    """Records among others: number i is `data[starts[i]:ends[i]]`."""

    data: bytes
    starts: Integers
    ends: Integers

    def take(self, chosen: Chosen) -> Payloads:
        """Return some of them."""
        return Payloads(self.data, self.starts[chosen], self.ends[chosen])


class Answers(NamedTuple):
    """What one model answered, one entry a row, in the journal's order.

    All but `scores` (float32 [rows, classes]) are int64. `segment` is the place of what the
    request named in the baseline's list.
    """

    sequence: Integers
    time_us: Integers
    predicted: Integers
    latency_us: Integers
    segment: Integers
    scores: Reals

    def take(self, chosen: Chosen) -> Answers:
        """Return some of the rows."""
        sequence, time_us, predicted, latency_us, segment, scores = self
        return Answers(
            sequence=sequence[chosen],
            time_us=time_us[chosen],
            predicted=predicted[chosen],
            latency_us=latency_us[chosen],
            segment=segment[chosen],
            scores=scores[chosen],
        )


class Watched(NamedTuple):
    """The answers that the sketch counts, each with its watched `features` [rows, features]."""

    answers: Answers
    features: Reals

    def take(self, chosen: Chosen) -> Watched:
        """Return some of the rows."""
        return Watched(self.answers.take(chosen), self.features[chosen])


class Answered(NamedTuple):
    """All answers of one model, and those of them that the sketch counts."""

    all: Answers
    watched: Watched


def encode_shadows(model: int, answers: Answers) -> list[bytes]:
    """Return the records of what a shadow answered, numbered as the live predictions."""
    width = answers.scores.shape[1]
    record = np.dtype([("head", _HEAD), ("reals", _REAL, (width,))])
    made = np.zeros(len(answers.sequence), dtype=record)
    heads = made["head"]
    heads["kind"], heads["model"], heads["scores"] = rows.SHADOW, model, width
    heads["sequence"], heads["time_us"] = answers.sequence, answers.time_us
    heads["predicted"], heads["latency_us"] = answers.predicted, answers.latency_us
    made["reals"] = answers.scores
    data, size = made.tobytes(), record.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]


def parse(payloads: Payloads) -> dict[int, Answered]:
    """Return by model what predictions, or shadows, answered.

    Raises Malformed; the journal's checksum makes that a bug.
    """
    data, starts, ends = payloads
    if not len(starts):
        return {}
    if (ends - starts).min() < _HEAD.itemsize:
        raise Malformed("a prediction in the journal is cut short")
    models = _gather(data, starts, _HEAD)["model"]
    return {
        model: _of_model(payloads.take(models == model)) for model in dict.fromkeys(models.tolist())
    }


def _of_model(payloads: Payloads) -> Answered:
    data, starts, ends = payloads
    heads = _gather(data, starts, _HEAD)
    # Where the reals begin: the place of a segment, if there is one, stands before them.
    is_named = heads["kind"] == rows.PREDICTION_OF_SEGMENT
    reals = starts + _HEAD.itemsize + is_named
    counts = heads["scores"].astype(np.int64) + heads["watched"]
    if (reals + counts * _REAL.itemsize != ends).any():
        raise Malformed("a prediction in the journal has another length than it says")
    if (np.maximum(heads["sequence"], heads["time_us"]) >= _SIGN).any():
        raise Malformed("a prediction in the journal has a number of more than 63 bits")
    segment = np.zeros(len(heads), dtype=np.int64)
    segment[is_named] = _gather(data, reals[is_named] - 1, np.dtype(np.uint8))
    answers = Answers(
        sequence=heads["sequence"].astype(np.int64),
        time_us=heads["time_us"].astype(np.int64),
        predicted=heads["predicted"].astype(np.int64),
        latency_us=heads["latency_us"].astype(np.int64),
        segment=segment,
        scores=_reals(data, reals, heads["scores"]),
    )
    at = heads["watched"].nonzero()[0]
    behind = reals[at] + answers.scores.shape[1] * _REAL.itemsize
    features = _reals(data, behind, heads["watched"][at])
    return Answered(answers, Watched(answers.take(at), features))


def _reals(data: bytes, places: Integers, widths: NDArray[Any]) -> Reals:
    """Return the float32 vectors that begin at `places`, all of one width."""
    if not len(places) or not widths.any():
        return np.zeros((len(places), 0), dtype=np.float32)
    width = int(widths[0])
    if (widths != width).any():
        raise Malformed("predictions of one model in the journal have vectors of unequal length")
    found: Reals = _gather(data, places, np.dtype((np.void, width * _REAL.itemsize)))
    return found.view(_REAL).reshape(len(places), width)


def _gather(data: bytes, places: Integers, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return what begins at each of `places`: a copy for each, in one go."""
    if not len(places):
        return np.zeros(0, dtype=dtype)
    everywhere = len(data) - dtype.itemsize + 1
    block = np.dtype((np.void, dtype.itemsize))  # as it lies there, field by field would be slow
    return np.ndarray((everywhere,), block, data, strides=(1,))[places].view(dtype)
