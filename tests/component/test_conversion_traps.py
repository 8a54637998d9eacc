"""What a converter may do to a model without a word, offered to `shoal bundle build`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sqlalchemy import update

from control_plane.api.auth import Role
from control_plane.cli import trial
from control_plane.cli.main import main
from control_plane.store import schema
from firmware_bundles import manifest, operations
from firmware_bundles.manifest import MANIFEST_NAME
from support import float_models, models
from support.bundles import SAMPLES
from support.control_planes import ControlPlane
from support.http_server import serving

GOOD = SAMPLES / "v2"
NEWER = "FULLY_CONNECTED"
FLOAT = float_models.dequantized((GOOD / "model.tflite").read_bytes())


def command(folder: Path, model: bytes, *more: str) -> list[str]:
    """Return the command that builds a bundle of a model with the good model's data."""
    path = folder / "converted.tflite"
    path.write_bytes(model)
    options = {
        "family": "digits",
        "version": "2",
        "model": path,
        "labels": GOOD / "labels.txt",
        "golden": GOOD / "golden.npz",
        "heldout": GOOD / "heldout.npz",
        "out": folder / "bundle",
    }
    pairs = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["bundle", "build", *pairs, *more]


def status_of(line: list[str]) -> int:
    """Run the command; return its exit status."""
    try:
        main(line)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


class Trap(NamedTuple):
    """A change of a good model, options of the command, and what the refusal says."""

    name: str
    change: Callable[[bytes], bytes]
    code: str
    said: str
    options: tuple[str, ...] = ()


TRAPS = (
    Trap(
        "lost weights",
        models.without_weights,
        "bundle.conversion_faulty",
        "golden vector",
    ),
    Trap(
        "lost weights of a float model",
        lambda _: models.without_weights(FLOAT),
        "bundle.conversion_faulty",
        "golden vector",
    ),
    Trap(
        "dynamic batch",
        models.with_dynamic_batch,
        "bundle.model_unusable",
        "Convert the model with a static batch of 1.",
    ),
    Trap(
        "no quantization parameters",
        models.without_scales,
        "bundle.conversion_faulty",
        "'image' is INT8 without scale and zero point",
    ),
    Trap(
        "an input of strings",
        models.with_strings,
        "bundle.model_unusable",
        "input 'image' has a type that cannot be served: strings",
    ),
    Trap(
        "an operation too new for the fleet",
        lambda model: models.with_operation_version(model, "FULLY_CONNECTED", 12),
        "bundle.runtime_unsupported",
        "FULLY_CONNECTED version 12; tflite-runtime 2.14.0 has at most version 10",
        ("--fleet-runtime", "ai-edge-litert 2.3.0", "--fleet-runtime", "tflite-runtime 2.14.0"),
    ),
    Trap(
        "an operation too new for all",
        lambda model: models.with_operation_version(model, "FULLY_CONNECTED", 30),
        "bundle.runtime_unsupported",
        "the model cannot run on ai-edge-litert 2.3.0, tflite-runtime 2.14.0",
    ),
    Trap(
        "an operation of TensorFlow",
        lambda model: models.with_custom_operation(model, "SOFTMAX", "FlexErf"),
        "bundle.runtime_unsupported",
        "no runtime has the custom operation 'FlexErf'",
    ),
    Trap(
        "a runtime that nobody knows",
        bytes,
        "input.invalid",
        "Known are: ai-edge-litert",
        ("--fleet-runtime", "tflite 1"),
    ),
)


@pytest.mark.parametrize("trap", TRAPS, ids=lambda each: each.name)
def test_a_trap_is_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str], trap: Trap) -> None:
    """No bundle, a stable code, and a sentence that says what to do."""
    model = trap.change((GOOD / "model.tflite").read_bytes())
    assert status_of(command(tmp_path, model, *trap.options)) != 0
    said = capsys.readouterr().err
    assert f"({trap.code})" in said
    assert trap.said in " ".join(said.split())
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("allowed", "status"), [("0.02", 1), ("0.5", 0)])
def test_a_loss_of_accuracy_is_refused_unless_it_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], allowed: str, status: int
) -> None:
    """A model that gives its own golden answers may still be worse than the one it was made of."""
    worse = SAMPLES / "bad"
    line = command(tmp_path, (worse / "model.tflite").read_bytes())
    line[line.index("--golden") + 1] = str(worse / "golden.npz")
    more = ["--float-model", str(GOOD / "model.tflite"), "--accuracy-drop-max", allowed]
    assert status_of([*line, *more]) == status
    said = " ".join(capsys.readouterr().err.split())
    refusal = "the converted model is right in 59.8% of 450 rows, the float model in 97.8%"
    assert (refusal in said) == bool(status)


def test_the_model_before_quantization_is_what_accuracy_is_held_against(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real float32 file: the good conversion passes, and so does the float model itself."""
    (tmp_path / "float.tflite").write_bytes(FLOAT)
    float_model = ["--float-model", str(tmp_path / "float.tflite"), "--accuracy-drop-max", "0.001"]
    assert status_of([*command(tmp_path, (GOOD / "model.tflite").read_bytes()), *float_model]) == 0
    golden = dict(np.load(GOOD / "golden.npz"))
    golden["probs"] = float_models.answers(FLOAT, golden["image"])
    np.savez(tmp_path / "golden.npz", **golden)
    line = command(tmp_path, FLOAT, *float_model)
    line[line.index("--golden") + 1] = str(tmp_path / "golden.npz")
    line[line.index("--out") + 1] = str(tmp_path / "float-bundle")
    assert status_of(line) == 0, capsys.readouterr().err
    built = manifest.parse((tmp_path / "float-bundle" / MANIFEST_NAME).read_bytes())
    assert [each.datatype for each in (*built.inputs, *built.outputs)] == ["FP32", "FP32"]


def test_a_good_conversion_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every check on, and nothing to complain of."""
    good = GOOD / "model.tflite"
    fleet = [text for name in ("ai-edge-litert 2.3.0", "tflite-runtime 2.14.0")
             for text in ("--fleet-runtime", name)]  # fmt: skip
    line = command(tmp_path, good.read_bytes(), "--float-model", str(good), *fleet)
    assert status_of(line) == 0
    assert capsys.readouterr().err == ""


def test_a_bundle_says_how_much_memory_its_model_needs(tmp_path: Path) -> None:
    """Measured while it was tried, with room to spare; the same for the next build."""
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
        assert status_of(command(folder, (GOOD / "model.tflite").read_bytes())) == 0
    one, other = (manifest.parse((f / "bundle" / MANIFEST_NAME).read_bytes()) for f in folders)
    assert one.needs.memory_bytes > 2**23
    assert one == other


def test_the_server_tells_which_devices_cannot_run_it(
    tmp_path: Path,
    control_plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a token, and unless the fleet's runtimes are named; the bundle is built all the same."""
    for device, runtime in (("old", 1), ("elder", 1), ("new", 0), ("slow", 0)):
        name, versions = list(operations.RUNTIMES.items())[runtime]
        facts = {"runtime": name, "operation_versions": versions, "memory_bytes": 2**30}
        facts |= {"speed_class": 9} if device == "slow" else {}
        mine = schema.device.c.id == control_plane.enrol(device).id
        with control_plane.database.transaction() as connection:
            connection.execute(update(schema.device).where(mine).values(inventory=facts))
    newer = models.with_operation_version((GOOD / "model.tflite").read_bytes(), NEWER, 12)
    with serving(control_plane.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        assert status_of(command(tmp_path, newer)) == 0
        assert capsys.readouterr().err == ""
        monkeypatch.setenv("SHOAL_TOKEN", control_plane.token(Role.VIEWER))
        line = command(tmp_path, newer)
        line[line.index("--out") + 1] = str(tmp_path / "second")
        assert status_of(line) == 0
        assert "2 devices, elder among them, cannot run the model: it needs FULLY_CONNECTED" in (
            " ".join(capsys.readouterr().err.split())
        )
        line[line.index("--out") + 1] = str(tmp_path / "third")
        assert status_of([*line, "--speed-class-min", "12"]) == 0
        assert "the device slow cannot run the model: it needs speed class 12" in (
            " ".join(capsys.readouterr().err.split())
        )
    line[line.index("--out") + 1] = str(tmp_path / "fourth")
    assert status_of(line) == 0
    assert "the fleet was not asked whether it can run the model" in capsys.readouterr().err


def test_accuracy_needs_true_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without them nothing can be compared, and that is said."""
    held_out = dict(np.load(GOOD / "heldout.npz"))
    del held_out["label"]
    np.savez(tmp_path / "rows.npz", **held_out)
    good = GOOD / "model.tflite"
    line = command(tmp_path, good.read_bytes(), "--float-model", str(good))
    line[line.index("--heldout") + 1] = str(tmp_path / "rows.npz")
    assert status_of(line) == 2
    assert "array 'label' of" in " ".join(capsys.readouterr().err.split())


def test_without_an_interpreter_the_owner_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle is built, with a word that nobody tried it; an accuracy cannot be compared."""
    monkeypatch.setattr(trial, "is_possible", lambda: False)
    line = command(tmp_path, (GOOD / "model.tflite").read_bytes())
    assert status_of([*line, "--float-model", str(GOOD / "model.tflite")]) != 0
    assert "(bundle.runtime_unsupported)" in capsys.readouterr().err
    assert status_of(line) == 0
    assert "the golden vectors were not tried" in capsys.readouterr().err
