"""From the body of a request to what a model takes: Open Inference Protocol v2, inference request.

JSON, JSON with binary tensor data behind it, or one tensor's bytes alone. Each refusal names the
tensor and what was expected. Paths and methods are `protocol`'s affair, answers are `answers`'.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
import numpy as np

from agent.inference.quantization import DTYPES, REAL, Port, Reals, Stored
from agent.inference.refused import Refused

CLASS_OUTPUT: Final = "class"
SCORE_OUTPUT: Final = "class_score"

_REAL_DTYPE: Final = np.dtype("<f4")
_VALUES_MAX: Final = 16 * 1024 * 1024


class _InputParameters(msgspec.Struct):
    binary_data_size: int | None = None


class _OutputParameters(msgspec.Struct):
    binary_data: bool | None = None
    datatype: str | None = None


class _RequestParameters(msgspec.Struct):
    binary_data_output: bool = False
    segment: str | None = None


class _Input(msgspec.Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[int | float] | None = None
    parameters: _InputParameters | None = None


class _LooseInput(msgspec.Struct):
    name: str
    shape: Any = None
    datatype: Any = None
    data: Any = None
    parameters: _InputParameters | None = None


class _Wanted(msgspec.Struct):
    name: str
    parameters: _OutputParameters | None = None


class _Head(msgspec.Struct):
    id: str | None = None
    parameters: _RequestParameters | None = None
    outputs: list[_Wanted] | None = None


class _Request(_Head):
    inputs: list[_Input] = []


class _LooseRequest(_Head):
    inputs: list[_LooseInput] = []


Outputs = Mapping[str, Sequence[str]]  # by name, the datatypes that each can be given as


class Asked(NamedTuple):
    """How one output is wanted; `datatype` None is that of the inputs: real or stored values."""

    is_binary: bool
    datatype: str | None


class Taken(msgspec.Struct, frozen=True):
    """A request that the model can run.

    `outputs` are those that were asked for, None for all; `is_binary` is what holds for those that
    did not say. `segment` is the part of the traffic that
    the request named.
    """

    id: str | None
    ports: Sequence[Port]
    stored: list[Stored]
    reals: list[Reals | None]
    is_raw: bool
    is_binary: bool
    outputs: dict[str, Asked] | None
    segment: str | None = None

    def features(self) -> Reals:
        """Return the real values of all inputs, in one dimension."""
        real: list[Reals] = []
        for port, stored, known in zip(self.ports, self.stored, self.reals, strict=True):
            real.append(port.real(stored) if known is None else known)
        return real[0] if len(real) == 1 else np.concatenate(real)


_PLAIN: Final = _RequestParameters()
_strict: Final = msgspec.json.Decoder(_Request)
_loose: Final = msgspec.json.Decoder(_LooseRequest)
_READ_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def take(
    body: bytes, inputs: Sequence[Port], outputs: Outputs, head_bytes: int | None = None
) -> Taken:
    """Parse the body of an infer request for a model with these tensors. Raises Refused.

    `head_bytes` is what Inference-Header-Content-Length says: so many bytes are JSON, and the rest
    is binary tensor data; 0 means that there is no JSON, and the body is the only input.
    """
    if head_bytes is None:
        return _take(_parse(body), memoryview(b""), inputs, outputs)
    if head_bytes > len(body):
        raise Refused(
            400,
            f"Inference-Header-Content-Length is {head_bytes}; the body has {len(body)} bytes",
        )
    if head_bytes == 0:
        return _take_alone(body, inputs)
    return _take(_parse(body[:head_bytes]), memoryview(body)[head_bytes:], inputs, outputs)


def _take(
    request: _Request | _LooseRequest,
    binary: memoryview,
    inputs: Sequence[Port],
    outputs: Outputs,
) -> Taken:
    given = _in_order(request, inputs)
    places = _places(request, len(binary))
    stored: list[Stored] = []
    reals: list[Reals | None] = []
    is_raw = False
    for port, each in zip(inputs, given, strict=True):
        if each.datatype not in port.datatypes or each.shape != port.shape:
            _refuse_head(each, port)
        if places is not None and (place := places.get(port.name)) is not None:
            values, real = _from_bytes(binary[place], str(each.datatype), port)
        else:
            values, real = _values(each, port)
        stored.append(values)
        reals.append(real)
        is_raw = is_raw or (real is None and port.is_quantized)
    said = request.parameters or _PLAIN
    wanted = _wanted(request.outputs, outputs, is_binary=said.binary_data_output)
    return Taken(
        request.id, inputs, stored, reals, is_raw, said.binary_data_output, wanted, said.segment
    )


def _take_alone(body: bytes, inputs: Sequence[Port]) -> Taken:
    """Take a body that is one tensor's bytes and nothing else, in a datatype told by its length."""
    if len(inputs) != 1:
        raise Refused(
            400, f"this model has {len(inputs)} inputs; a body without JSON holds only one"
        )
    (port,) = inputs
    fits = [each for each in port.datatypes if len(body) == port.size * DTYPES[each].itemsize]
    if not fits:
        sizes = " or ".join(
            f"{port.size * DTYPES[each].itemsize} ({each})" for each in port.datatypes
        )
        raise Refused(400, f"input {port.name!r} has {len(body)} bytes; expected {sizes}")
    values, real = _from_bytes(memoryview(body), fits[0], port)
    is_raw = port.is_quantized and fits[0] != REAL
    return Taken(None, inputs, [values], [real], is_raw, False, None)


def _places(request: _Request | _LooseRequest, length: int) -> dict[str, slice] | None:
    """Return where each binary input lies, one behind the other, in the request's order.

    None where there is no binary input.
    """
    if not length and all([each.parameters is None for each in request.inputs]):  # noqa: C419 - a list is faster
        return None
    places: dict[str, slice] = {}
    end = 0
    for each in request.inputs:
        size = each.parameters.binary_data_size if each.parameters else None
        if size is None:
            continue
        if each.data is not None:
            raise Refused(400, f"input {each.name!r:.80} has both 'data' and 'binary_data_size'")
        if not 0 <= size <= length - end:
            raise Refused(
                400,
                f"input {each.name!r:.80} has binary_data_size {size}; "
                f"{length - end} bytes of binary data are left for it",
            )
        places[each.name] = slice(end, end + size)
        end += size
    if end != length:
        raise Refused(400, f"{length - end} bytes of binary data belong to no input")
    return places


def _parse(body: bytes) -> _Request | _LooseRequest:
    try:
        return _strict.decode(body)
    except _READ_ERRORS:
        pass
    try:  # nested data are allowed, and what is wrong should be told by the tensor's name
        loose = _loose.decode(body)
    except _READ_ERRORS as error:
        raise Refused(400, f"the body is not an inference request: {error}") from error
    for each in loose.inputs:
        if isinstance(each.shape, list):
            each.shape = tuple(each.shape)
    return loose


def _in_order(
    request: _Request | _LooseRequest, inputs: Sequence[Port]
) -> Sequence[_Input | _LooseInput]:
    """Return the inputs of a request in the model's order. Raises Refused."""
    given = request.inputs
    if len(given) == len(inputs) == 1 and given[0].name == inputs[0].name:
        return given
    by_name = {each.name: each for each in given}
    names = [port.name for port in inputs]
    if len(by_name) != len(given):
        raise Refused(400, "an input is given twice")
    for name in by_name:
        if name not in names:
            raise Refused(400, f"input {name!r:.80} is unknown; expected {_listed(names)}")
    for name in names:
        if name not in by_name:
            raise Refused(400, f"input {name!r} is missing; expected {_listed(names)}")
    return [by_name[name] for name in names]


def _refuse_head(given: _Input | _LooseInput, port: Port) -> NoReturn:
    if given.datatype not in port.datatypes:
        raise Refused(
            400,
            f"input {port.name!r} has datatype {given.datatype!r:.20}; "
            f"expected {' or '.join(port.datatypes)}",
        )
    shape = list(given.shape) if isinstance(given.shape, tuple) else given.shape
    raise Refused(400, f"input {port.name!r} has shape {shape!r:.80}; expected {list(port.shape)}")


def _data(given: _Input | _LooseInput, port: Port) -> list[int | float]:
    """Return as many numbers as the tensor takes, in one list. Raises Refused."""
    data = _flat(given.data, port) if isinstance(given, _LooseInput) else given.data
    if data is None:
        raise Refused(400, f"input {port.name!r} has no list in 'data'; expected numbers")
    if len(data) != port.size:
        raise Refused(
            400,
            f"input {port.name!r} has {len(data)} values; "
            f"shape {list(port.shape)} takes {port.size}",
        )
    return data


def _from_bytes(data: memoryview, datatype: str, port: Port) -> tuple[Stored, Reals | None]:
    """Return what the model stores for little-endian bytes, and the real values if known."""
    dtype = DTYPES[datatype]
    if len(data) != port.size * dtype.itemsize:
        raise Refused(
            400,
            f"input {port.name!r} has {len(data)} bytes; shape {list(port.shape)} of {datatype} "
            f"takes {port.size * dtype.itemsize}",
        )
    values: Stored = np.frombuffer(data, dtype=dtype.newbyteorder("<"))
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise Refused(400, f"input {port.name!r} has a value that is not finite ({datatype})")
    if dtype.kind == "b" and values.view(np.uint8).max(initial=0) > 1:
        raise Refused(400, f"input {port.name!r} has a value out of range; expected 0 or 1 (BOOL)")
    if datatype == REAL:
        real = values.astype(np.float32, copy=False)
        return port.store(real), real
    return np.require(values.astype(dtype, copy=False), requirements="A").reshape(port.shape), None


def _values(given: _Input | _LooseInput, port: Port) -> tuple[Stored, Reals | None]:
    """Return what the model stores for an input's numbers, and its real values if known."""
    data = _data(given, port)
    if given.datatype == REAL:
        real = _finite(data, port)
        return port.store(real), real
    return _raw(data, port), None


def _finite(data: list[int | float], port: Port) -> Reals:
    try:  # JSON has no NaN, and packing refuses what would be infinite
        packed = port.packing_real.pack(*data)
    except (OverflowError, struct.error):
        raise Refused(400, f"input {port.name!r} has a value that does not fit FP32") from None
    return np.frombuffer(packed, dtype=_REAL_DTYPE)


def _raw(data: list[int | float], port: Port) -> Stored:
    if port.packing is not None:
        try:
            return np.ndarray(port.shape, port.dtype, port.packing.pack(*data))
        except struct.error:
            pass  # something is no whole number, or out of range
    return _raw_checked(data, port).reshape(port.shape)


def _raw_checked(data: list[int | float], port: Port) -> Stored:
    dtype, datatype = port.dtype, port.tensor.datatype
    if dtype.kind == "f":
        try:
            with np.errstate(over="ignore"):
                converted: Stored = np.array(data, dtype=np.float64).astype(dtype)
            is_good = bool(np.isfinite(converted).all())
        except OverflowError:
            is_good = False
        expected = f"finite {datatype}"
    else:
        low, high = (0, 1) if dtype.kind == "b" else _ends(dtype)
        is_good = all(low <= value <= high and value == int(value) for value in data)
        expected = f"whole numbers from {low} to {high} ({datatype})"
        converted = np.array([int(value) for value in data] if is_good else [0], dtype=dtype)
    if not is_good:
        raise Refused(400, f"input {port.name!r} has a value out of range; expected {expected}")
    return converted


def _ends(dtype: np.dtype[Any]) -> tuple[int, int]:
    ends = np.iinfo(dtype)
    return int(ends.min), int(ends.max)


def _flat(data: object, port: Port) -> list[int | float]:
    """Return nested lists of numbers as one list, row-major."""
    if not isinstance(data, list):
        raise Refused(400, f"input {port.name!r} has no list in 'data'; expected numbers")
    is_bool = port.dtype.kind == "b"
    flat: list[int | float] = []
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
            flat.append(value)
        else:
            stack.pop()
        if len(flat) > _VALUES_MAX:
            raise Refused(400, f"input {port.name!r} has too many values")
    return flat


def _wanted(
    asked: list[_Wanted] | None, outputs: Outputs, *, is_binary: bool
) -> dict[str, Asked] | None:
    if not asked:
        return None
    wanted: dict[str, Asked] = {}
    for each in asked:
        if (datatypes := outputs.get(each.name)) is None:
            raise Refused(
                400, f"output {each.name!r:.80} is unknown; expected {_listed(sorted(outputs))}"
            )
        said = each.parameters or _OutputParameters()
        if said.datatype is not None and said.datatype not in datatypes:
            raise Refused(
                400,
                f"output {each.name!r} cannot be given as {said.datatype!r:.20}; "
                f"expected {' or '.join(datatypes)}",
            )
        as_bytes = is_binary if said.binary_data is None else said.binary_data
        wanted[each.name] = Asked(as_bytes, said.datatype)
    return wanted


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
