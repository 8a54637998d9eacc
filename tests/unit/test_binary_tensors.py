"""The binary tensor data extension: what is packed comes out, and nothing else is taken."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from agent.inference import tensors
from agent.inference.answers import _bytes, _Values
from agent.inference.quantization import DTYPES, Port
from agent.inference.refused import Refused
from firmware_bundles.manifest import Tensor

FLAG = Port(Tensor(name="flag", datatype="BOOL", shape=(2,)))
STEP = Port(Tensor(name="step", datatype="INT8", shape=(2,), scale=0.5, zero_point=-3))


@st.composite
def _tensors(draw: st.DrawFn) -> list[tuple[Port, Any]]:
    """Return tensors of all datatypes and shapes, with finite values."""
    made = []
    for place in range(draw(st.integers(1, 4))):
        datatype: Any = draw(st.sampled_from(sorted(DTYPES)))
        shape = draw(arrays.array_shapes(max_dims=3, max_side=4))
        finite = arrays.from_dtype(DTYPES[datatype], allow_nan=False, allow_infinity=False)
        values = draw(arrays.arrays(DTYPES[datatype], shape, elements=finite))
        made.append((Port(Tensor(name=f"t{place}", datatype=datatype, shape=shape)), values))
    return made


def _body(given: list[tuple[Port, Any]], *, is_binary: list[bool]) -> tuple[bytes, int]:
    inputs, blobs = [], []
    for (port, values), as_bytes in zip(given, is_binary, strict=True):
        facts = {"name": port.name, "shape": list(port.shape), "datatype": port.tensor.datatype}
        if as_bytes:
            blobs.append(_bytes(_Values(port.name, port.shape, port.tensor.datatype, values)))
            inputs.append(facts | {"parameters": {"binary_data_size": len(blobs[-1])}})
        else:
            inputs.append(facts | {"data": values.ravel().tolist()})
    head = json.dumps({"inputs": inputs}).encode()
    return head + b"".join(blobs), len(head)


@given(_tensors(), st.data())
def test_every_value_survives_the_way_as_bytes_or_as_json(
    given: list[tuple[Port, Any]], data: st.DataObject
) -> None:
    """All datatypes, bit for bit, whichever of the inputs travel behind the JSON."""
    is_binary = data.draw(st.lists(st.booleans(), min_size=len(given), max_size=len(given)))
    body, head_bytes = _body(given, is_binary=is_binary)
    taken = tensors.take(body, [port for port, _ in given], {}, head_bytes)
    for stored, (_, values) in zip(taken.stored, given, strict=True):
        assert (stored.dtype, stored.shape) == (values.dtype, values.shape)
        assert np.array_equal(stored, values)
    assert len(taken.features()) == sum(values.size for _, values in given)


@given(_tensors(), st.data())
def test_a_body_of_another_length_is_refused(
    given: list[tuple[Port, Any]], data: st.DataObject
) -> None:
    """A byte too few or too many belongs to no tensor."""
    body, head_bytes = _body(given, is_binary=[True] * len(given))
    cut = data.draw(st.integers(head_bytes, len(body) - 1))
    for wrong in (body[:cut], body + b"x"):
        with pytest.raises(Refused) as caught:
            tensors.take(wrong, [port for port, _ in given], {}, head_bytes)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("port", "changes", "blob", "sentence"),
    [
        (FLAG, {}, b"\0\2", "input 'flag' has a value out of range; expected 0 or 1 (BOOL)"),
        (FLAG, {"parameters": {"binary_data_size": 3}}, b"\0\1",
         "input 'flag' has binary_data_size 3; 2 bytes of binary data are left for it"),
        (FLAG, {"parameters": {"binary_data_size": -1}}, b"\0\1",
         "input 'flag' has binary_data_size -1; 2 bytes of binary data are left for it"),
        (FLAG, {"parameters": {"binary_data_size": 1}}, b"\0",
         "input 'flag' has 1 bytes; shape [2] of BOOL takes 2"),
        (FLAG, {"data": [True, False]}, b"\0\1",
         "input 'flag' has both 'data' and 'binary_data_size'"),
        (FLAG, {"data": [True, False], "parameters": {}}, b"\0\1",
         "2 bytes of binary data belong to no input"),
        (STEP, {"datatype": "FP32", "parameters": {"binary_data_size": 8}}, b"\0\0\xc0\x7f" * 2,
         "input 'step' has a value that is not finite (FP32)"),
    ],
)  # fmt: skip
def test_wrong_bytes_are_told_by_the_tensors_name(
    port: Port, changes: dict[str, Any], blob: bytes, sentence: str
) -> None:
    """Sizes, ranges, and JSON and bytes at once."""
    facts = {
        "name": port.name, "shape": [2], "datatype": port.tensor.datatype,
        "parameters": {"binary_data_size": 2},
    }  # fmt: skip
    head = json.dumps({"inputs": [facts | changes]}).encode()
    with pytest.raises(Refused) as caught:
        tensors.take(head + blob, [port], {}, len(head))
    assert (caught.value.status, caught.value.message) == (400, sentence)
