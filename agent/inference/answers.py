"""From what a model gives to an answer's body: Open Inference Protocol v2, inference response.

Real or stored values, `class` and `class_score` by the manifest's post-processing, as JSON or as
binary tensor data behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from agent.inference.http import Response
from agent.inference.quantization import DTYPES, REAL, STRINGS, Port, Reals, Stored
from agent.inference.tensors import CLASS_OUTPUT, SCORE_OUTPUT, Taken
from firmware_bundles import postprocessing

if TYPE_CHECKING:
    from agent.inference.served import ServedModel

_UNKNOWN: Final = -1
_NO_SCORES: Final = np.zeros(0, dtype=np.float32)
_LENGTH: Final = struct.Struct("<I")

_encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
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
        return Answer(stored, _NO_SCORES, _UNKNOWN)
    scores = model.outputs[place].real(stored[place])
    if fact.activation:
        scores = postprocessing.activate(scores, fact.activation)
    best = int(scores.argmax())
    if fact.threshold and scores[best] < fact.threshold:
        best = _UNKNOWN
    return Answer(stored, scores, best)


def respond(model: ServedModel, taken: Taken, answer: Answer, prediction: str) -> Response:
    """Return the answer to a request; `prediction` is its id."""
    blobs: list[bytes] = []
    outputs = [
        _output(name, values, taken, blobs) for name, values in _outputs(model, taken, answer)
    ]
    body: dict[str, Any] = {
        "model_name": model.manifest.family,
        "model_version": model.version,
        "parameters": {"prediction_id": prediction},
        "outputs": outputs,
    }
    if taken.id is not None:
        body["id"] = taken.id
    head = _encode(body)
    if not blobs:
        return Response(200, head)
    headers = (
        b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
        % len(head)
    )
    return Response(200, b"".join([head, *blobs]), headers)


class _Values(NamedTuple):
    """An output's values: an array, or names."""

    shape: tuple[int, ...]
    datatype: str
    values: Stored | list[str]


def _outputs(model: ServedModel, taken: Taken, answer: Answer) -> Iterator[tuple[str, _Values]]:
    asked = taken.outputs
    for port, stored in zip(model.outputs, answer.stored, strict=True):
        if asked is None or port.name in asked:
            wanted = None if asked is None else asked[port.name].datatype
            is_raw = taken.is_raw if wanted is None else wanted != REAL
            yield port.name, _tensor(port, stored, is_raw=is_raw)
    named = [each for each in model.made_outputs if asked is None or each in asked]
    if named:
        best = postprocessing.best(answer.scores, model.top_k, model.threshold)
        if CLASS_OUTPUT in named:
            labels = model.bundle.labels
            names = ["" if each < 0 else labels[each] for each in best]
            yield CLASS_OUTPUT, _Values((len(best),), STRINGS, names)
        if SCORE_OUTPUT in named:
            scores = postprocessing.scores_of(answer.scores, best)
            yield SCORE_OUTPUT, _Values((len(best),), REAL, scores)


def _tensor(port: Port, stored: Stored, *, is_raw: bool) -> _Values:
    if port.is_quantized and not is_raw:
        return _Values(port.shape, REAL, port.real(stored))
    return _Values(port.shape, port.tensor.datatype, stored)


def _output(name: str, each: _Values, taken: Taken, blobs: list[bytes]) -> dict[str, Any]:
    """Return an output's JSON; binary data, where they are wanted, are added to `blobs`."""
    told: dict[str, Any] = {"name": name, "shape": each.shape, "datatype": each.datatype}
    is_binary = taken.is_binary if taken.outputs is None else taken.outputs[name].is_binary
    if is_binary:
        blobs.append(_bytes(each))
        told["parameters"] = {"binary_data_size": len(blobs[-1])}
    elif isinstance(each.values, list):
        told["data"] = each.values
    else:
        told["data"] = each.values.ravel().tolist()
    return told


def _bytes(each: _Values) -> bytes:
    """Return little-endian values, row-major; BYTES: each behind its length in four bytes."""
    if isinstance(each.values, list):
        texts = [text.encode() for text in each.values]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    dtype = DTYPES[each.datatype].newbyteorder("<")
    return np.ascontiguousarray(each.values, dtype=dtype).tobytes()
