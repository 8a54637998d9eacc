"""From a request's JSON to what a model takes, and from what it gives to an answer's JSON.

Open Inference Protocol v2, inference request and response JSON objects. Each refusal names the
tensor and what was expected. Paths and methods are `protocol`'s affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.inference.quantization import REAL, Port, Reals, Stored

CLASS_OUTPUT: Final = "class"

_EXACT_MAX: Final = 2**53
_VALUES_MAX: Final = 16 * 1024 * 1024


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
    shape: Any = None
    datatype: Any = None
    data: Any = None


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


def take(body: bytes, inputs: Sequence[Port], outputs: frozenset[str]) -> Taken:
    """Parse the body of an infer request for a model with these tensors. Raises Refused."""
    request = _parse(body)
    given = {each.name: each for each in request.inputs}
    _check_names(request, given, inputs)
    stored: list[Stored] = []
    real: list[Reals] = []
    is_raw = False
    for port in inputs:
        each = given[port.name]
        _check_head(each, port)
        values, features = _values(each, port)
        stored.append(values)
        real.append(features)
        is_raw = is_raw or (port.is_quantized and each.datatype != REAL)
    return Taken(
        id=request.id,
        stored=stored,
        features=real[0] if len(real) == 1 else np.concatenate(real),
        is_raw=is_raw,
        outputs=_wanted(request.outputs, outputs),
    )


def give(stored: Stored, real: Reals, port: Port, *, is_raw: bool) -> dict[str, Any]:
    """Return an output of the answer: real values, or what the model stores."""
    is_real = port.is_quantized and not is_raw
    return {
        "name": port.name,
        "shape": port.shape,
        "datatype": REAL if is_real else port.tensor.datatype,
        "data": real.tolist() if is_real else stored.ravel().tolist(),
    }


def give_class(label: str) -> dict[str, Any]:
    """Return the output that names the class; BYTES elements are strings in JSON."""
    return {"name": CLASS_OUTPUT, "shape": [1], "datatype": "BYTES", "data": [label]}


def _parse(body: bytes) -> _Request | _LooseRequest:
    try:
        return _strict.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # nested data are allowed, and what is wrong should be told by the tensor's name
        return _loose.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is not an inference request: {error}") from error


def _check_names(
    request: _Request | _LooseRequest,
    given: Mapping[str, _Input | _LooseInput],
    inputs: Sequence[Port],
) -> None:
    names = [port.name for port in inputs]
    if len(given) != len(request.inputs):
        raise Refused(400, "an input is given twice")
    for name in given:
        if name not in names:
            raise Refused(400, f"input {name!r:.80} is unknown; expected {_listed(names)}")
    for name in names:
        if name not in given:
            raise Refused(400, f"input {name!r} is missing; expected {_listed(names)}")


def _check_head(given: _Input | _LooseInput, port: Port) -> None:
    if given.datatype not in port.datatypes:
        raise Refused(
            400,
            f"input {port.name!r} has datatype {given.datatype!r:.20}; "
            f"expected {' or '.join(port.datatypes)}",
        )
    if given.shape != list(port.shape):
        raise Refused(
            400, f"input {port.name!r} has shape {given.shape!r:.80}; expected {list(port.shape)}"
        )
    if isinstance(given, _LooseInput):
        given.data = _flat(given.data, port)
    if len(given.data) != port.size:
        raise Refused(
            400,
            f"input {port.name!r} has {len(given.data)} values; "
            f"shape {list(port.shape)} takes {port.size}",
        )


def _values(given: _Input | _LooseInput, port: Port) -> tuple[Stored, Reals]:
    """Return what the model stores for an input, and its real values in one dimension."""
    if given.datatype == REAL:
        real = _finite(given.data, port)
        return port.store(real), real
    stored = _raw(given.data, port)
    return stored.reshape(port.shape), port.real(stored)


def _finite(data: list[float], port: Port) -> Reals:
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(data, dtype=np.float32)
        # Cheap, and only a hint: squares may overflow where the values do not.
        is_tame = isfinite(values.dot(values))
    if not is_tame and not np.isfinite(values).all():
        raise Refused(400, f"input {port.name!r} has a value that does not fit FP32")
    return values


def _raw(data: list[float], port: Port) -> Stored:
    values: NDArray[np.float64] = np.array(data, dtype=np.float64)
    dtype, datatype = port.dtype, port.tensor.datatype
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            converted: Stored = values.astype(dtype)
        is_good = bool(np.isfinite(converted).all())
        expected = f"finite {datatype}"
    else:
        low, high = (0, 1) if dtype.kind == "b" else _whole_numbers(dtype)
        is_good = bool(((values >= low) & (values <= high) & (values == np.rint(values))).all())
        expected = f"whole numbers from {low} to {high} ({datatype})"
        converted = values.astype(dtype) if is_good else values
    if not is_good:
        raise Refused(400, f"input {port.name!r} has a value out of range; expected {expected}")
    return converted


def _whole_numbers(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the ends of what JSON's numbers hold of a type without rounding."""
    ends = np.iinfo(dtype)
    return max(ends.min, -_EXACT_MAX), min(ends.max, _EXACT_MAX)


def _flat(data: object, port: Port) -> list[float]:
    """Return nested lists of numbers as one list, row-major."""
    if not isinstance(data, list):
        raise Refused(400, f"input {port.name!r} has no list in 'data'; expected numbers")
    is_bool = port.dtype.kind == "b"
    flat: list[float] = []
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            if not isinstance(value, int | float) or (isinstance(value, bool) and not is_bool):
                raise Refused(
                    400, f"input {port.name!r} has the value {value!r:.40}; expected numbers"
                )
            flat.append(_number(value, port))
        else:
            stack.pop()
        if len(flat) > _VALUES_MAX:
            raise Refused(400, f"input {port.name!r} has too many values")
    return flat


def _number(value: float, port: Port) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise Refused(400, f"input {port.name!r} has a value that is too large") from error


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
