"""Building a bundle, and noticing when its folder is no longer what was built."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from firmware_bundles import build, golden, manifest
from firmware_bundles.errors import BundleError, InputError, Malformed, ManifestInvalid, ShoalError
from firmware_bundles.sketches import codec as sketch_codec

SAMPLE = Path(__file__).parents[2] / "firmware_bundles/samples/digits/v1"
SETTINGS = build.Settings(
    family="digits",
    version="1",
    model=SAMPLE / "model.tflite",
    labels=SAMPLE / "labels.txt",
    golden=SAMPLE / "golden.npz",
    heldout=SAMPLE / "heldout.npz",
)


@pytest.fixture
def bundle(tmp_path: Path) -> build.Bundle:
    """The sample's first version as a bundle."""
    return build.build(SETTINGS, tmp_path / "digits-1")


def test_a_built_bundle_is_whole(bundle: build.Bundle) -> None:
    """What is built verifies, with golden vectors and a baseline that fit the model."""
    assert build.verify_bundle(bundle.directory) == bundle
    document = bundle.manifest
    assert document.classification is not None
    assert document.baseline is not None
    vectors = golden.parse(bundle.file_bytes(document.golden.file))
    assert vectors.rows == len(vectors.labels) == 32
    baseline = sketch_codec.parse_baseline(bundle.file_bytes(document.baseline))
    assert (baseline.rows, baseline.labels) == (450, tuple("0123456789"))


def test_building_twice_gives_the_same_bytes(bundle: build.Bundle, tmp_path: Path) -> None:
    """A bundle depends on what went in, and on nothing else."""
    again = build.build(SETTINGS, tmp_path / "again")
    assert again.manifest_bytes == bundle.manifest_bytes


def test_needs_that_the_owner_states_are_signed(tmp_path: Path) -> None:
    """An accelerator and a speed class stand in the manifest, beside what the model says itself."""
    settings = dataclasses.replace(SETTINGS, accelerator="edgetpu", speed_class_min=12)
    needs = build.build(settings, tmp_path / "out").manifest.needs
    assert (needs.accelerator, needs.speed_class_min) == ("edgetpu", 12)
    assert needs.operations


def test_an_existing_folder_is_left_alone(bundle: build.Bundle) -> None:
    """Building never overwrites."""
    with pytest.raises(InputError, match="exists already"):
        build.build(SETTINGS, bundle.directory)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """No folder appears, not even a temporary one."""
    settings = dataclasses.replace(SETTINGS, heldout=SAMPLE / "labels.txt")
    with pytest.raises(InputError, match=r"no \.npz file"):
        build.build(settings, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"family": "Digits"}, Malformed),
        ({"version": "../1"}, Malformed),
        ({"accelerator": "Edge TPU"}, Malformed),
        ({"scores": "nothing"}, InputError),
        ({"model": SAMPLE / "labels.txt"}, BundleError),
        ({"golden": SAMPLE / "model.tflite"}, InputError),
        ({"labels": SAMPLE / "model.tflite"}, InputError),
    ],
)
def test_wrong_settings_are_refused(
    tmp_path: Path, change: dict[str, str | Path], error: type[ShoalError]
) -> None:
    """Each mistake of a person is one clear refusal."""
    settings = dataclasses.replace(SETTINGS, **change)  # type: ignore[arg-type]
    with pytest.raises(error):
        build.build(settings, tmp_path / "out")


def test_golden_vectors_of_another_shape_are_refused(tmp_path: Path) -> None:
    """The message names the array, what it is and what was expected."""
    wrong = tmp_path / "golden.npz"
    np.savez(wrong, image=np.zeros((3, 9, 9, 1)), probs=np.zeros((3, 10)))
    settings = dataclasses.replace(SETTINGS, golden=wrong)
    with pytest.raises(InputError, match=r"'image'.*\(3, 9, 9, 1\).*\(8, 8, 1\)"):
        build.build(settings, tmp_path / "out")


def _flip(folder: Path) -> None:
    path = folder / "model.tflite"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _add(folder: Path) -> None:
    (folder / "extra.bin").write_bytes(b"x")


def _remove(folder: Path) -> None:
    (folder / "labels.txt").unlink()


def _link(folder: Path) -> None:
    target = folder.parent / "labels.txt"
    (folder / "labels.txt").rename(target)
    (folder / "labels.txt").symlink_to(target)


def _claim(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_bytes())
    document["inputs"][0]["shape"] = [1, 64]
    (folder / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize("damage", [_flip, _add, _remove, _link, _claim])
def test_a_changed_folder_is_refused(bundle: build.Bundle, damage: Callable[[Path], None]) -> None:
    """Files and manifest have to say the same, and nothing else may lie there."""
    damage(bundle.directory)
    with pytest.raises(BundleError):
        build.verify_bundle(bundle.directory)


def test_a_broken_manifest_names_file_and_place(bundle: build.Bundle) -> None:
    """A person finds the mistake by the message alone."""
    path = bundle.directory / manifest.MANIFEST_NAME
    document = json.loads(path.read_bytes())
    document["files"][1]["digest"] = "no digest"
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestInvalid, match=r"manifest\.json: .*\$\.files\[1\]\.digest"):
        build.read_bundle(bundle.directory)


def test_post_processing_is_said_in_the_manifest_and_shapes_the_baseline(tmp_path: Path) -> None:
    """What devices will record as scores is what the baseline is made of."""
    settings = dataclasses.replace(SETTINGS, activation="softmax", threshold=0.15, top_k=2)
    made = build.build(settings, tmp_path / "out")
    fact = build.verify_bundle(made.directory).manifest.classification
    assert fact is not None
    assert (fact.activation, fact.threshold, fact.top_k) == ("softmax", 0.15, 2)
    plain = build.build(SETTINGS, tmp_path / "plain")
    assert made.file_bytes(build.BASELINE_FILE) != plain.file_bytes(build.BASELINE_FILE)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"activation": "tanh"}, "the post-processing is wrong: Invalid enum value 'tanh'"),
        ({"threshold": 0.0}, "the post-processing is wrong"),
        ({"top_k": 11}, "top_k is 11; there are 10 classes"),
        ({"labels": None, "top_k": 2}, "top_k without labels"),
    ],
)
def test_wrong_post_processing_is_refused(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    """Before anything is written, with what was wrong."""
    settings = dataclasses.replace(SETTINGS, **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=sentence):
        build.build(settings, tmp_path / "out")
