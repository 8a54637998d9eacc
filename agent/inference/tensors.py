"""From a request's JSON to what a model takes, and from what it gives to an answer's JSON.

Open Inference Protocol v2, inference request and response JSON objects. Each refusal names the
tensor and what was expected. Paths and methods are `protocol`'s affair.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.inference.quantization import DTYPES, Reals, Stored, dequantize, is_quantized, quantize
from firmware_bundles.manifest import Tensor

CLASS_OUTPUT: Final = "class"

_VALUES_MAX: Final = 16 * 1024 * 1024
_REAL: Final = "FP32"


class Refused(Exception):
    """A request that cannot be answered: the HTTP status and the sentence why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _LooseInput(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any


class _Wanted(msgspec.Struct):
    name: str


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Wanted] | None = None


class _LooseRequest(msgspec.Struct):
    inputs: list[_LooseInput]
    id: str | None = None
    outputs: list[_Wanted] | None = None


class Taken(NamedTuple):
    """A request that the model can run. `features` are all inputs' real values, flattened."""

    id: str | None
    stored: list[Stored]
    features: Reals
    is_raw: bool
    outputs: frozenset[str] | None


_strict: Final = msgspec.json.Decoder(_Request)
_loose: Final = msgspec.json.Decoder(_LooseRequest)


def take(body: bytes, inputs: tuple[Tensor, ...], outputs: frozenset[str]) -> Taken:
    """Parse the body of an infer request for a model with these tensors. Raises Refused."""
    request = _parse(body)
    given = {each.name: each for each in request.inputs}
    names = [tensor.name for tensor in inputs]
    if len(given) != len(request.inputs):
        raise Refused(400, "an input is given twice")
    for name in given:
        if name not in names:
            raise Refused(400, f"input {name!r:.80} is unknown; expected {_listed(names)}")
    stored: list[Stored] = []
    real: list[Reals] = []
    for tensor in inputs:
        each = given.get(tensor.name)
        if each is None:
            raise Refused(400, f"input {tensor.name!r} is missing; expected {_listed(names)}")
        values = _values(each, tensor)
        stored.append(values)
        is_given_raw = is_quantized(tensor) and each.datatype != _REAL
        real.append((dequantize(values, tensor) if is_given_raw else _real(each)).ravel())
    return Taken(
        id=request.id,
        stored=stored,
        features=real[0] if len(real) == 1 else np.concatenate(real),
        is_raw=any(
            is_quantized(tensor) and given[tensor.name].datatype != _REAL for tensor in inputs
        ),
        outputs=_wanted(request.outputs, outputs),
    )


def give(stored: Stored, tensor: Tensor, *, is_raw: bool) -> dict[str, Any]:
    """Return an output of the answer: real values, or what the model stores."""
    is_real = is_quantized(tensor) and not is_raw
    values = dequantize(stored, tensor) if is_real else stored
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "datatype": _REAL if is_real else tensor.datatype,
        "data": values.ravel().tolist(),
    }


def give_class(label: str) -> dict[str, Any]:
    """Return the output that names the class; BYTES elements are strings in JSON."""
    return {"name": CLASS_OUTPUT, "shape": [1], "datatype": "BYTES", "data": [label]}


def datatypes(tensor: Tensor) -> list[str]:
    """Return the datatypes that a client may send for an input, the preferred one first."""
    if is_quantized(tensor):
        return [_REAL, tensor.datatype]
    return [tensor.datatype]


def _parse(body: bytes) -> _Request | _LooseRequest:
    try:
        return _strict.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # nested data are allowed, and what is wrong should be told by the tensor's name
        return _loose.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is not an inference request: {error}") from error


def _values(given: _Input | _LooseInput, tensor: Tensor) -> Stored:
    """Return what the model stores for an input, after checking name, type, shape and data."""
    allowed = datatypes(tensor)
    if given.datatype not in allowed:
        raise Refused(
            400,
            f"input {tensor.name!r} has datatype {given.datatype!r:.20}; "
            f"expected {' or '.join(allowed)}",
        )
    shape = tuple(tensor.shape)
    if tuple(given.shape) != shape:
        raise Refused(
            400, f"input {tensor.name!r} has shape {given.shape!r:.80}; expected {list(shape)}"
        )
    if isinstance(given, _LooseInput):
        given.data = _flat(given.data, tensor)
    if len(given.data) != prod(shape):
        raise Refused(
            400,
            f"input {tensor.name!r} has {len(given.data)} values; "
            f"shape {list(shape)} takes {prod(shape)}",
        )
    if given.datatype == _REAL:
        return quantize(_finite(given, tensor), tensor).reshape(shape)
    return _raw(given.data, tensor).reshape(shape)


def _real(given: _Input | _LooseInput) -> Reals:
    return np.array(given.data, dtype=np.float32)


def _finite(given: _Input | _LooseInput, tensor: Tensor) -> Reals:
    with np.errstate(over="ignore"):
        values = _real(given)
    if not np.isfinite(values).all():
        raise Refused(400, f"input {tensor.name!r} has a value that does not fit FP32")
    return values


def _raw(data: list[float], tensor: Tensor) -> Stored:
    values: NDArray[np.float64] = np.array(data, dtype=np.float64)
    dtype = DTYPES[tensor.datatype]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            converted: Stored = values.astype(dtype)
        is_good = bool(np.isfinite(converted).all())
        expected = f"finite {tensor.datatype}"
    else:
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        is_good = bool(((values >= low) & (values <= high) & (values == np.rint(values))).all())
        expected = f"whole numbers from {low} to {high} ({tensor.datatype})"
        converted = values.astype(dtype) if is_good else values
    if not is_good:
        raise Refused(400, f"input {tensor.name!r} has a value out of range; expected {expected}")
    return converted


def _flat(data: object, tensor: Tensor) -> list[float]:
    """Return nested lists of numbers as one list, row-major."""
    if not isinstance(data, list):
        raise Refused(400, f"input {tensor.name!r} has no list in 'data'; expected numbers")
    flat: list[float] = []
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            if not isinstance(value, int | float):
                raise Refused(
                    400, f"input {tensor.name!r} has the value {value!r:.40}; expected numbers"
                )
            flat.append(_number(value, tensor))
        else:
            stack.pop()
        if len(flat) > _VALUES_MAX:
            raise Refused(400, f"input {tensor.name!r} has too many values")
    return flat


def _number(value: float, tensor: Tensor) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise Refused(400, f"input {tensor.name!r} has a value that is too large") from error


def _wanted(asked: list[_Wanted] | None, outputs: frozenset[str]) -> frozenset[str] | None:
    if not asked:
        return None
    names = frozenset(each.name for each in asked)
    if unknown := sorted(names - outputs):
        raise Refused(
            400, f"output {unknown[0]!r:.80} is unknown; expected {_listed(sorted(outputs))}"
        )
    return names


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
