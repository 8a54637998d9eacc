"""From what a model gives to an answer's body: Open Inference Protocol v2, inference response.

Real or stored values, `class` and `class_score` by the manifest's post-processing, as JSON or as
binary tensor data behind it.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from agent.inference.http import Response
from agent.inference.quantization import DTYPES, REAL, STRINGS, Port, Reals, Stored
from agent.inference.tensors import CLASS_OUTPUT, SCORE_OUTPUT, Taken
from firmware_bundles import postprocessing

if TYPE_CHECKING:
    from agent.inference.served import ServedModel

_NO_SCORES: Final = np.zeros(0, dtype=np.float32)
_LENGTH: Final = struct.Struct("<I")

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """What the model gave, and what it means.

    `scores` are those of the classes, `predicted` is the index of the best, -1 without one that is
    good enough.
    """

    stored: list[Stored]
    scores: Reals
    predicted: int


def interpret(model: ServedModel, stored: list[Stored]) -> Answer:
    """Apply the manifest's post-processing."""
    fact, place = model.manifest.classification, model.scores_place
    if fact is None or place is None:
        return Answer(stored, _NO_SCORES, postprocessing.NONE)
    scores = model.outputs[place].real(stored[place])
    if fact.activation:
        scores = postprocessing.activate(scores, fact.activation)
    (best,) = postprocessing.best(scores, 1, model.threshold)
    return Answer(stored, scores, best)


def respond(model: ServedModel, taken: Taken, answer: Answer, prediction: str) -> Response:
    """Return the answer to a request; `prediction` is its id, of letters, digits and hyphens."""
    blobs: list[bytes] = []
    outputs = [_output(each, taken, blobs) for each in _outputs(model, taken, answer)]
    told_id = b"" if taken.id is None else b',"id":' + _encode(taken.id)
    opening = _opening(model.manifest.family, model.version)
    body = b'%b%b"},"outputs":[%b]%b}' % (
        opening, prediction.encode(), b",".join(outputs), told_id
    )  # fmt: skip
    if not blobs:
        return Response(200, body)
    headers = (
        b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
        % len(body)
    )
    return Response(200, b"".join([body, *blobs]), headers)


# What all answers of a model have in common is encoded once.


@lru_cache(maxsize=64)
def _opening(family: str, version: str) -> bytes:
    told = {"model_name": family, "model_version": version, "parameters": {"prediction_id": ""}}
    return _encode(told).removesuffix(b'"}}')


@lru_cache(maxsize=1024)
def _facts(name: str, shape: tuple[int, ...], datatype: str) -> bytes:
    return _encode({"name": name, "shape": shape, "datatype": datatype}).removesuffix(b"}")


class _Values(msgspec.Struct, frozen=True):
    """An output's values: an array, or names."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    values: Stored | list[str]


def _outputs(model: ServedModel, taken: Taken, answer: Answer) -> list[_Values]:
    asked = taken.outputs
    found = [
        _tensor(port, stored, taken)
        for port, stored in zip(model.outputs, answer.stored, strict=True)
        if asked is None or port.name in asked
    ]
    named = model.made_outputs
    if asked is not None:
        named = [each for each in named if each in asked]
    if not named:
        return found
    best = [answer.predicted]
    if model.top_k > 1:
        best = postprocessing.best(answer.scores, model.top_k, model.threshold)
    if CLASS_OUTPUT in named:
        labels = model.bundle.labels
        names = ["" if each < 0 else labels[each] for each in best]
        found.append(_Values(CLASS_OUTPUT, (len(best),), STRINGS, names))
    if SCORE_OUTPUT in named:
        scores = postprocessing.scores_of(answer.scores, best)
        found.append(_Values(SCORE_OUTPUT, (len(best),), REAL, scores))
    return found


def _tensor(port: Port, stored: Stored, taken: Taken) -> _Values:
    asked = taken.outputs
    wanted = None if asked is None else asked[port.name].datatype
    is_raw = taken.is_raw if wanted is None else wanted != REAL
    if port.is_quantized and not is_raw:
        return _Values(port.name, port.shape, REAL, port.real(stored))
    return _Values(port.name, port.shape, port.tensor.datatype, stored)


def _output(each: _Values, taken: Taken, blobs: list[bytes]) -> bytes:
    """Return an output's JSON; binary data, where they are wanted, are added to `blobs`."""
    facts = _facts(each.name, each.shape, each.datatype)
    is_binary = taken.is_binary if taken.outputs is None else taken.outputs[each.name].is_binary
    if is_binary:
        blobs.append(_bytes(each))
        return b'%b,"parameters":{"binary_data_size":%d}}' % (facts, len(blobs[-1]))
    data = each.values if isinstance(each.values, list) else each.values.ravel().tolist()
    return b'%b,"data":%b}' % (facts, _encode(data))


def _bytes(each: _Values) -> bytes:
    """Return little-endian values, row-major; BYTES: each behind its length in four bytes."""
    if isinstance(each.values, list):
        texts = [text.encode() for text in each.values]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    dtype = DTYPES[each.datatype].newbyteorder("<")
    return np.ascontiguousarray(each.values, dtype=dtype).tobytes()
