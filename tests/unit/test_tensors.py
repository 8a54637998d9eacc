"""Requests become tensors, and each refusal names the tensor and what was expected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference import tensors
from agent.inference.quantization import DTYPES, Port
from agent.inference.refused import Refused
from firmware_bundles.manifest import Datatype, Tensor

IMAGE = Port(Tensor(name="image", datatype="INT8", shape=(1, 2, 2), scale=0.5, zero_point=-3))
PLAIN = Port(Tensor(name="plain", datatype="FP32", shape=(2,)))
COUNT = Port(Tensor(name="count", datatype="INT32", shape=(1,)))
OUT_OF_RANGE = (
    "input 'image' has a value out of range; expected whole numbers from -128 to 127 (INT8)"
)
OUTPUTS = {"probs": ["FP32", "INT8"], "class": ["BYTES"]}


def _input(**changes: object) -> dict[str, Any]:
    given = {"name": "image", "shape": [1, 2, 2], "datatype": "FP32", "data": [0, 1, 2, 3]}
    return {"inputs": [given | changes]}


def test_real_values_are_quantized_with_saturation() -> None:
    """Real values become round(v / scale) + zero point, held within the type."""
    taken = tensors.take(_body(_input(data=[0.0, 1.26, 1e9, -1e9])), [IMAGE], OUTPUTS)
    assert taken.stored[0].tolist() == [[[-3, 0], [127, -128]]]
    assert taken.stored[0].dtype == np.int8
    assert taken.features().tolist() == pytest.approx([0.0, 1.26, 1e9, -1e9])
    assert not taken.is_raw


@pytest.mark.parametrize("datatype", ["INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64"])
def test_what_is_too_large_is_held_at_its_own_end(datatype: Datatype) -> None:
    """Of every type; FP32 cannot say the end of the large ones, and what it says next is beyond."""
    port = Port(Tensor(name="x", datatype=datatype, shape=(2,), scale=0.5))
    low, high = port.store(np.array([-3e38, 3e38], dtype=np.float32)).tolist()
    ends = np.iinfo(port.dtype)
    assert low == ends.min
    assert ends.max - high <= ends.max * 2**-24
    assert high <= ends.max


def test_stored_values_are_taken_as_they_are() -> None:
    """A client that sends the model's own type sends stored values; their real ones are known."""
    taken = tensors.take(_body(_input(datatype="INT8", data=[-128, -3, 0, 127])), [IMAGE], OUTPUTS)
    assert taken.stored[0].ravel().tolist() == [-128, -3, 0, 127]
    assert taken.features().tolist() == [-62.5, 0.0, 1.5, 65.0]
    assert taken.is_raw


def test_nested_data_are_row_major() -> None:
    """Data may be nested like the shape (Open Inference Protocol, tensor data)."""
    nested = tensors.take(_body(_input(data=[[[0, 1], [2, 3]]])), [IMAGE], OUTPUTS)
    flat = tensors.take(_body(_input()), [IMAGE], OUTPUTS)
    assert np.array_equal(nested.stored[0], flat.stored[0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "picture"}, "input 'picture' is unknown; expected 'image'"),
        ({"shape": [4]}, "input 'image' has shape [4]; expected [1, 2, 2]"),
        ({"shape": [1, 2, 3]}, "input 'image' has shape [1, 2, 3]; expected [1, 2, 2]"),
        ({"datatype": "FP64"}, "input 'image' has datatype 'FP64'; expected FP32 or INT8"),
        ({"data": [1, 2, 3]}, "input 'image' has 3 values; shape [1, 2, 2] takes 4"),
        ({"data": [1, 2, 3, "x"]}, "input 'image' has the value 'x'; expected numbers"),
        ({"data": [1, 2, 3, None]}, "input 'image' has the value None; expected numbers"),
        ({"data": "1234"}, "input 'image' has no list in 'data'; expected numbers"),
        ({"data": [1, 2, 3, 1e300]}, "input 'image' has a value that does not fit FP32"),
        (
            {"datatype": "INT8", "data": [1, 2, 3, 128]},
            OUT_OF_RANGE,
        ),
        (
            {"datatype": "INT8", "data": [1, 2, 3, 0.5]},
            OUT_OF_RANGE,
        ),
    ],
)
def test_a_wrong_input_is_refused_by_name(changes: dict[str, object], sentence: str) -> None:
    """Name, shape, type and data are checked; the sentence says what was expected."""
    assert _refusal(_body(_input(**changes)), [IMAGE]) == (400, sentence)


def test_missing_and_doubled_inputs_are_refused() -> None:
    """All inputs are given, each once."""
    assert _refusal(_body({"inputs": []}), [IMAGE]) == (
        400,
        "input 'image' is missing; expected 'image'",
    )
    doubled = {"inputs": _input()["inputs"] * 2}
    assert _refusal(_body(doubled), [IMAGE]) == (400, "an input is given twice")


def test_an_unknown_output_is_refused() -> None:
    """Outputs may be chosen among those that there are."""
    body = _body(_input() | {"outputs": [{"name": "nothing"}]})
    assert _refusal(body, [IMAGE])[1] == "output 'nothing' is unknown; expected 'class', 'probs'"


def test_models_without_quantization_take_their_own_type() -> None:
    """Plain floats and integers go through unchanged."""
    plain = {"name": "plain", "shape": [2], "datatype": "FP32", "data": [0.5, -2]}
    count = {"name": "count", "shape": [1], "datatype": "INT32", "data": [7]}
    taken = tensors.take(_body({"inputs": [count, plain]}), [PLAIN, COUNT], OUTPUTS)
    assert [each.tolist() for each in taken.stored] == [[0.5, -2.0], [7]]
    assert taken.features().tolist() == [0.5, -2.0, 7.0]


@given(st.integers(-128, 127))
def test_stored_values_survive_being_real(step: int) -> None:
    """From stored to real and back is the identity."""
    stored = np.full((1, 2, 2), step, dtype=np.int8)
    assert np.array_equal(IMAGE.store(IMAGE.real(stored)), stored)


def _dump(value: object) -> bytes:
    return json.dumps(value).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    st.binary(max_size=60)
    | json_values.map(_dump)
    | json_values.map(lambda value: _dump(_input(data=value)))
    | json_values.map(lambda value: _dump(_input(shape=value)))
)
def test_any_body_is_taken_or_refused(body: bytes) -> None:
    """Whatever a client sends ends in a tensor or a sentence, never in another error."""
    try:
        taken = tensors.take(body, [IMAGE], OUTPUTS)
    except Refused as error:
        outcome = (error.status, bool(error.message))
    else:
        outcome = (400, taken.stored[0].shape == (1, 2, 2))
    assert outcome == (400, True)


def test_deep_nesting_is_refused() -> None:
    """Nesting has no way to exhaust the stack."""
    body = _body(_input()).replace(b"[0, 1, 2, 3]", b"[" * 100_000 + b"]" * 100_000)
    assert _refusal(body, [IMAGE])[0] == 400


def _body(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def _refusal(body: bytes, ports: list[Port]) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        tensors.take(body, ports, OUTPUTS)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": None}, "input 'image' has shape None; expected [1, 2, 2]"),
        ({"shape": "x"}, "input 'image' has shape 'x'; expected [1, 2, 2]"),
        ({"datatype": 5}, "input 'image' has datatype 5; expected FP32 or INT8"),
        ({"data": [True, 1, 2, 3]}, "input 'image' has the value True; expected numbers"),
    ],
)
def test_a_field_of_another_kind_is_told_by_the_tensors_name(
    changes: dict[str, Any], sentence: str
) -> None:
    """Not by its place in the body alone."""
    with pytest.raises(Refused) as caught:
        tensors.take(_body(_input(**changes)), [IMAGE], OUTPUTS)
    assert (caught.value.status, caught.value.message) == (400, sentence)


@pytest.mark.parametrize(
    ("datatype", "low", "high"),
    [("INT64", -(2**63), 2**63 - 1), ("UINT64", 0, 2**64 - 1), ("UINT32", 0, 2**32 - 1)],
)
def test_whole_numbers_are_exact_to_the_ends_of_their_type(
    datatype: Datatype, low: int, high: int
) -> None:
    """Above 2**53 neighbours stay apart, and what does not fit is refused, never wrapped."""
    port = Port(Tensor(name="key", datatype=datatype, shape=(1,)))
    for value in (low, high, high - 1, high // 2 + 1):
        body = _body(_input(name="key", shape=[1], datatype=datatype, data=[value]))
        assert tensors.take(body, [port], OUTPUTS).stored[0].tolist() == [value]
    for value in (low - 1, high + 1, 10**40):
        body = _body(_input(name="key", shape=[1], datatype=datatype, data=[value]))
        with pytest.raises(Refused, match=f"expected whole numbers from {low} to {high} "):
            tensors.take(body, [port], OUTPUTS)


def test_values_whose_squares_overflow_are_taken_in_silence() -> None:
    """The largest values of FP32 are values; numpy's warning would fill the worker's log."""
    taken = tensors.take(_body(_input(data=[1.8e19, -3e38, 0, 1])), [IMAGE], OUTPUTS)
    assert taken.features().tolist() == pytest.approx([1.8e19, -3e38, 0, 1])


_NUMBERS = (
    st.integers(-300, 300)
    | st.integers(-(2**65), 2**65)
    | st.sampled_from([-0.0, 5e-324, 1e-45, 3.4028235e38, 3.4028236e38, 1e39, 10**400, 2**63, 0.5])
    | st.integers(-(2**33), 2**33).map(float)
    | st.floats(allow_nan=False, allow_infinity=False)
)


def _expected(values: list[int | float], datatype: str) -> list[int | float] | None:
    """Return what a tensor of this type holds after these numbers, None where one does not fit."""
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        try:
            with np.errstate(over="ignore"):
                stored = [dtype.type(float(each)) for each in values]
        except OverflowError:
            return None
        return [float(each) for each in stored] if np.isfinite(stored).all() else None
    ends = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    is_good = all(each == int(each) and ends[0] <= each <= ends[1] for each in values)
    return [int(each) for each in values] if is_good else None


@given(
    st.sampled_from(sorted(DTYPES)),
    st.sampled_from([(), (1,), (2,), (2, 2)]),
    st.booleans(),
    st.data(),
)
def test_numbers_are_stored_exactly_or_refused(
    datatype: Datatype,
    shape: tuple[int, ...],
    is_nested: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    """Of every type, at all ends, whole numbers written as fractions too; flat or nested."""
    port = Port(Tensor(name="x", datatype=datatype, shape=shape))
    values = data.draw(st.lists(_NUMBERS, min_size=port.size, max_size=port.size))
    given = [[each] for each in values] if is_nested else values
    body = _body(_input(name="x", shape=list(shape), datatype=datatype, data=given))
    expected = _expected(values, datatype)
    if expected is None:
        assert _refusal(body, [port])[0] == 400
        return
    (stored,) = tensors.take(body, [port], OUTPUTS).stored
    assert (stored.dtype, stored.shape) == (DTYPES[datatype], shape)
    found = stored.ravel().tolist()
    assert found == expected
    assert np.signbit(found).tolist() == np.signbit(expected).tolist()
