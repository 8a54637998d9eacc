"""An answer's bytes are what an encoder of the whole would give, whatever names and values say."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from agent.inference import answers
from agent.inference.answers import Answer
from agent.inference.quantization import DTYPES, REAL, Port, Stored
from agent.inference.tensors import Asked, Taken
from firmware_bundles.manifest import Tensor

_names = st.text(max_size=8) | st.sampled_from(['"', '"}}', "}", '\\"}},"', "\u2028é\x00", "%b"])


@st.composite
def _ports(draw: st.DrawFn) -> list[tuple[Port, Any]]:
    """Return outputs of all datatypes and shapes, scalars too, with any values."""
    made = []
    for name in draw(st.lists(_names, max_size=3, unique=True)):
        datatype: Any = draw(st.sampled_from(sorted(DTYPES)))
        shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, max_side=3))
        scale = draw(st.sampled_from([0.0, 0.5])) if DTYPES[datatype].kind in "iu" else 0.0
        tensor = Tensor(name=name, datatype=datatype, shape=shape, scale=scale, zero_point=-3)
        made.append((Port(tensor), draw(arrays.arrays(DTYPES[datatype], shape))))
    return made


def _model(family: str, version: str, outputs: list[Port]) -> Any:  # noqa: ANN401 - stands for one
    """Return what an answer asks of a model that makes nothing of its outputs."""
    manifest = SimpleNamespace(family=family)
    return SimpleNamespace(
        manifest=manifest, version=version, outputs=outputs, made_outputs=[], top_k=0
    )


def _told(port: Port, values: Stored, taken: Taken) -> tuple[dict[str, Any], bytes]:
    is_real = port.is_quantized and not taken.is_raw
    datatype = REAL if is_real else port.tensor.datatype
    facts = {"name": port.name, "shape": list(port.shape), "datatype": datatype}
    shown = port.real(values) if is_real else values
    assert taken.outputs is not None
    if not taken.outputs[port.name].is_binary:
        return facts | {"data": shown.ravel().tolist()}, b""
    blob = shown.astype(DTYPES[datatype].newbyteorder("<")).tobytes()
    return facts | {"parameters": {"binary_data_size": len(blob)}}, blob


@given(_ports(), _names, _names, st.none() | _names, st.booleans(), st.data())
def test_an_answer_is_what_an_encoder_of_the_whole_would_give(
    given: list[tuple[Port, Any]],
    family: str,
    version: str,
    told_id: str | None,
    is_raw: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    """Byte for byte, and any reader of JSON finds the same in it."""
    asked = {port.name: Asked(data.draw(st.booleans()), None) for port, _ in given}
    taken = Taken(told_id, [], [], [], is_raw, False, asked)
    parts = [_told(port, values, taken) for port, values in given]
    wanted = {
        "model_name": family,
        "model_version": version,
        "parameters": {"prediction_id": "0-1"},
        "outputs": [facts for facts, _ in parts],
    } | ({} if told_id is None else {"id": told_id})
    answer = Answer([values for _, values in given], np.zeros(0, dtype=np.float32), -1)
    model = _model(family, version, [port for port, _ in given])
    body = answers.respond(model, taken, answer, "0-1").body
    head = msgspec.json.encode(wanted)
    assert body == head + b"".join(blob for _, blob in parts)
    assert json.loads(head)["model_name"] == family


@given(st.data())
def test_real_values_are_those_of_the_formula(data: st.DataObject) -> None:
    """Of every quantized type and shape: scale * (stored - zero point), row-major, in FP32."""
    datatype: Any = data.draw(st.sampled_from(["INT8", "UINT8", "INT16", "UINT16"]))
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=3, max_side=4))
    scale, zero = data.draw(st.floats(1e-6, 1e3)), data.draw(st.integers(-200, 200))
    port = Port(Tensor(name="x", datatype=datatype, shape=shape, scale=scale, zero_point=zero))
    values = data.draw(arrays.arrays(DTYPES[datatype], shape))
    values.flags.writeable = False
    found = port.real(values)
    steps = [np.float32(int(each) - zero) * np.float32(scale) for each in values.ravel()]
    assert found.dtype == np.float32
    assert found.shape == (port.size,)
    assert found.tolist() == np.array(steps, dtype=np.float32).tolist()
