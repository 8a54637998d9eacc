"""The committed digits sample: its parts, its golden answers, and the order of its models."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

if TYPE_CHECKING:
    from numpy.typing import NDArray


DIGITS = Path(__file__).parents[2] / "firmware_bundles" / "samples" / "digits"
VERSIONS = ("v1", "v2", "bad")
GOLDEN_LSB_MAX = 2
MODEL_BYTES_MAX = 32_000


@cache
def load(part: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of one .npz file of the sample."""
    with np.load(DIGITS / f"{part}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def open_model(version: str) -> Any:  # noqa: ANN401 - the interpreter carries no types
    """Return an interpreter of a version, ready to invoke."""
    interpreter = Interpreter(str(DIGITS / version / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def answer_raw(version: str, images: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return a version's int8 answers to real-valued images."""
    runner = open_model(version).get_signature_runner("serving_default")
    scale, zero = runner.get_input_details()["image"]["quantization"]
    quantized = np.clip(np.round(images / scale) + zero, -128, 127).astype(np.int8)
    return np.concatenate([runner(image=row[np.newaxis])["probs"] for row in quantized])


def feed_accuracy(version: str) -> float:
    """Return a version's share of right answers on the feed."""
    feed = load("feed")
    return float((answer_raw(version, feed["image"]).argmax(axis=1) == feed["label"]).mean())


def test_parts_share_no_row() -> None:
    """Golden, held-out and feed rows are disjoint, so that no figure is measured twice."""
    parts = [load("v1/golden")["row"], load("v1/heldout")["row"], load("feed")["row"]]
    for one, other in combinations(parts, 2):
        assert not np.intersect1d(one, other).size
    rows = np.concatenate(parts)
    assert len(np.unique(rows)) == len(rows)


@pytest.mark.parametrize("part", ["golden", "heldout"])
def test_versions_share_their_parts(part: str) -> None:
    """All versions answer the same golden and held-out rows, so that they can be compared."""
    first = load(f"v1/{part}")
    for version in VERSIONS[1:]:
        for name in ("row", "image", "label"):
            np.testing.assert_array_equal(load(f"{version}/{part}")[name], first[name])


@pytest.mark.parametrize("part", ["v1/golden", "v1/heldout", "feed"])
def test_images_are_pixels_divided_by_sixteen(part: str) -> None:
    """Images are real values in 0..1 in steps of 1/16, with one true digit each."""
    arrays = load(part)
    count = len(arrays["row"])
    assert arrays["image"].shape == (count, 8, 8, 1)
    assert arrays["image"].dtype == np.float32
    pixels = arrays["image"] * 16
    np.testing.assert_array_equal(pixels, pixels.astype(np.uint8))
    assert pixels.max() == 16
    assert sorted(set(arrays["label"].tolist())) == list(range(10))


@pytest.mark.parametrize("version", VERSIONS)
def test_model_takes_one_int8_image(version: str) -> None:
    """Each model is small, has static batch 1, int8 ends and the names `image` and `probs`."""
    interpreter = open_model(version)
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["probs"]}
    }
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (taken["shape_signature"].tolist(), taken["dtype"]) == ([1, 8, 8, 1], np.int8)
    assert (given["shape_signature"].tolist(), given["dtype"]) == ([1, 10], np.int8)
    assert (DIGITS / version / "model.tflite").stat().st_size < MODEL_BYTES_MAX
    assert (DIGITS / version / "labels.txt").read_text().split() == list("0123456789")


@pytest.mark.parametrize("version", VERSIONS)
def test_model_answers_its_golden_vectors(version: str) -> None:
    """Each model, the bad one too, answers its golden vectors within two quantization steps."""
    golden = load(f"{version}/golden")
    scale, zero = open_model(version).get_output_details()[0]["quantization"]
    expected = np.round(golden["probs"] / scale) + zero
    steps = np.abs(answer_raw(version, golden["image"]).astype(int) - expected)
    assert steps.max() <= GOLDEN_LSB_MAX


def test_second_model_is_better_and_bad_one_is_worse() -> None:
    """On the feed v2 beats v1 by at least .05, and the bad model is at least .2 below v2."""
    first, second, bad = (feed_accuracy(version) for version in VERSIONS)
    assert second >= first + 0.05
    assert bad <= second - 0.2
