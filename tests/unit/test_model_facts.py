"""Reading what a .tflite file says of itself, and refusing what is damaged."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bundles import model_facts
from firmware_bundles.errors import BundleError, BundleTooLarge, ModelUnusable
from firmware_bundles.limits import FILE_BYTES_MAX
from firmware_bundles.manifest import Tensor

MODEL = (Path(__file__).parents[2] / "firmware_bundles/samples/digits/v1/model.tflite").read_bytes()


def test_a_models_tensors_and_operations_are_read() -> None:
    """Names are those of the signature; types, scales and versions those of the file."""
    facts = model_facts.read(MODEL)
    (image,), (probs,) = facts.inputs, facts.outputs
    assert (image.name, image.datatype, image.shape) == ("image", "INT8", (1, 8, 8, 1))
    assert image.scale == pytest.approx(1 / 255)
    assert image.zero_point == -128
    assert (probs.name, probs.shape, probs.scale) == ("probs", (1, 10), 1 / 256)
    assert {"CONV_2D", "FULLY_CONNECTED", "SOFTMAX"} <= set(facts.operations)


def test_a_dynamic_batch_is_refused() -> None:
    """A shape that is settled only at run time cannot be promised in a manifest."""
    shape = b"\x04\0\0\0" + b"".join(n.to_bytes(4, "little") for n in (1, 8, 8, 1))
    assert MODEL.count(shape) >= 1
    dynamic = MODEL.replace(shape, shape[:4] + b"\xff" * 4 + shape[8:])
    with pytest.raises(ModelUnusable, match="dynamic shape"):
        model_facts.read(dynamic)


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0" * 64, b"\x20\0\0\0TFL3" + b"\0" * 60])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    """Other files end in one error."""
    with pytest.raises(ModelUnusable):
        model_facts.read(data)


def test_a_model_over_the_limit_is_not_parsed() -> None:
    """Size is looked at before content."""
    with pytest.raises(BundleTooLarge):
        model_facts.read(bytes(FILE_BYTES_MAX + 1))


@given(st.integers(0, len(MODEL)))
def test_a_truncated_model_is_refused_or_read(length: int) -> None:
    """No offset leads outside of the file."""
    with contextlib.suppress(BundleError):
        model_facts.read(MODEL[:length])


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_model_is_refused_or_read(damage: list[tuple[int, int]]) -> None:
    """Nothing but an error of the tree comes out of a mutated file, and tensors stay valid."""
    data = bytearray(MODEL)
    for place, value in damage:
        data[place] = value
        data[-place - 1] ^= value
    try:
        facts = model_facts.read(bytes(data))
    except BundleError:
        return
    assert all(isinstance(tensor, Tensor) for tensor in (*facts.inputs, *facts.outputs))
