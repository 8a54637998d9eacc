"""What a model needs beyond what a device offers."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import inventory, speed
from agent.inference import calibration
from control_plane.fleet import selectors
from control_plane.fleet.facts import reported
from firmware_bundles import capabilities, manifest, operations
from firmware_bundles.capabilities import Capabilities
from firmware_bundles.manifest import Needs

OLD = capabilities.of_runtime("tflite-runtime 2.14.0")
NEW = capabilities.of_runtime("ai-edge-litert 2.3.0")
GIB = 2**30


@given(st.dictionaries(st.sampled_from(operations.NAMES), st.integers(1, 35)))
def test_versions_survive_their_text(versions: dict[str, int]) -> None:
    """One character for each operation says all that there is to say."""
    text = operations.encode(versions)
    assert len(text) == len(operations.NAMES)
    assert operations.parse(text) == versions


@given(st.text(max_size=600))
def test_any_text_is_read(text: str) -> None:
    """An inventory comes from outside: what is no list of versions is not known."""
    assert set(operations.parse(text)) <= set(operations.NAMES)


def test_a_newer_operation_is_named_with_both_versions() -> None:
    """A person learns what the model needs, and what the runtime has instead."""
    needs = Needs(operations={"CONV_2D": 3, "FULLY_CONNECTED": 12})
    assert OLD is not None
    assert NEW is not None
    assert capabilities.lacking(needs, OLD) == (
        "it needs FULLY_CONNECTED version 12; tflite-runtime 2.14.0 has at most version 10",
    )
    assert capabilities.lacking(needs, NEW) == ()


@pytest.mark.parametrize(
    ("needs", "offered", "lacks"),
    [
        (Needs(operations={"DILATE": 1}), OLD,
         "it needs DILATE version 1; tflite-runtime 2.14.0 has no such operation"),
        (Needs(operations={"CUSTOM:FlexErf": 1}), NEW,
         "no runtime has the custom operation 'FlexErf'"),
        (Needs(operations={"CUSTOM:TFLite_Detection_PostProcess": 1}), NEW, None),
        (Needs(memory_bytes=2 * GIB), Capabilities("r", {}, GIB),
         f"it needs {2 * GIB} bytes of memory; there are {GIB}"),
        (Needs(memory_bytes=2 * GIB), Capabilities("r", {}, 0), None),
        (Needs(operations={"DILATE": 1}), Capabilities("r", {}), None),
        (Needs(), Capabilities("none", {}), "no interpreter is installed"),
        (Needs(accelerator="edgetpu"), Capabilities("r", {}, accelerators=("gpu", "npu")),
         "it needs the accelerator edgetpu; configured: gpu, npu"),
        (Needs(accelerator="edgetpu"), Capabilities("r", {}, accelerators=()),
         "it needs the accelerator edgetpu; configured: none"),
        (Needs(accelerator="edgetpu"), Capabilities("r", {}, accelerators=("edgetpu",)), None),
        (Needs(accelerator="edgetpu"), Capabilities("r", {}), None),
        (Needs(speed_class_min=12), Capabilities("r", {}, speed_class=11),
         "it needs speed class 12 or higher; 11 was measured"),
        (Needs(speed_class_min=12), Capabilities("r", {}, speed_class=12), None),
        (Needs(speed_class_min=12), Capabilities("r", {}), None),
    ],
)  # fmt: skip
def test_what_is_lacking_is_a_sentence(
    needs: Needs, offered: Capabilities, lacks: str | None
) -> None:
    """Operations, custom operations, memory, an interpreter at all; the unknown lacks nothing."""
    assert capabilities.lacking(needs, offered) == (() if lacks is None else (lacks,))


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"runtime": 1, "operation_versions": 2, "memory_bytes": "3"},
        {"accelerators": 4, "speed_class": "5"},
    ],
)
def test_an_inventory_of_another_kind_says_nothing(facts: dict[str, object]) -> None:
    """Older agents tell less, and hostile ones anything."""
    assert capabilities.of_inventory(facts) == Capabilities("", {}, 0)


def test_an_unknown_runtime_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer runtime than this release knows answers for itself, in a child process."""
    known = str(inventory.facts()["operation_versions"])
    monkeypatch.setattr(operations, "RUNTIMES", {})
    assert inventory._operation_versions("ai-edge-litert 9.9.9") == known


@pytest.mark.parametrize(
    "child",
    [("no such program",), (sys.executable, "-c", "print(chr(7))"), (sys.executable, "-c", "1/0")],
)
def test_a_runtime_that_does_not_answer_is_not_known(
    monkeypatch: pytest.MonkeyPatch, child: tuple[str, ...]
) -> None:
    """The agent starts all the same; the self-test decides alone."""
    monkeypatch.setattr(inventory, "_ASK_RUNTIME", child)
    assert inventory._operation_versions("ai-edge-litert 9.9.9") == ""


def test_needs_that_nobody_has_are_not_in_the_signed_bytes() -> None:
    """A manifest without them has the bytes that it always had."""
    assert set(msgspec.to_builtins(Needs())) == {"operations", "memory_bytes", "latency_ms_max"}


@pytest.mark.parametrize("needs", ['{"accelerator":"Edge TPU"}', '{"speed_class_min":41}'])
def test_needs_that_no_device_can_have_are_refused(needs: str) -> None:
    """A manifest comes from outside: names and classes have their form."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(needs, type=manifest.Needs)


def test_the_inventory_names_the_accelerators_that_are_configured(tmp_path: Path) -> None:
    """In the order of the file; none without it, and none where it is broken."""
    assert inventory.facts(tmp_path)["accelerators"] == "none"
    entry = '[[delegate]]\nkind = "compiled"\naccelerator = "npu"\nname = '
    (tmp_path / "inference.toml").write_text(f'{entry}"npu_1"\n{entry}"gpu"\n')
    assert inventory.facts(tmp_path)["accelerators"] == "npu_1.gpu"
    told = capabilities.of_inventory(inventory.facts(tmp_path))
    assert told.accelerators == ("npu_1", "gpu")
    (tmp_path / "inference.toml").write_text("[[delegate")
    assert capabilities.of_inventory(inventory.facts(tmp_path)).accelerators == ()


def test_the_speed_class_is_measured_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told does not change from start to start; the inventory has it from then on."""
    assert "speed_class" not in inventory.facts(tmp_path)
    before = inventory.digest(tmp_path)
    found = inventory.offered(tmp_path).speed_class
    assert found is not None
    monkeypatch.setattr(speed, "_MEASURE", (sys.executable, "-c", "1/0"))
    assert speed.measured(tmp_path) == inventory.facts(tmp_path)["speed_class"] == found
    assert inventory.digest(tmp_path) != before


@pytest.mark.parametrize("kept", [b"", b"\xff", b"another board\n9\n", b"x" * 9999])
def test_a_speed_class_of_another_board_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bytes
) -> None:
    """A card that moved to another board, or a broken file, does not speak for this one."""
    (tmp_path / speed.FILE_NAME).write_bytes(kept)
    assert speed.kept(tmp_path) is None
    monkeypatch.setattr(speed, "_MEASURE", (sys.executable, "-c", "print(7)"))
    assert speed.measured(tmp_path) == speed.kept(tmp_path) == 7


@pytest.mark.parametrize("said", ["1/0", "print()", "print(-1)", "print(41)", "print('9' * 99)"])
def test_a_speed_that_cannot_be_measured_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Nothing is kept then, and the next model asks again."""
    monkeypatch.setattr(speed, "_MEASURE", (sys.executable, "-c", said))
    assert speed.measured(tmp_path) is None
    assert not (tmp_path / speed.FILE_NAME).exists()


@pytest.mark.parametrize(
    ("seconds", "found"), [(14.2, 0), (0.014155776, 9), (0.0005, 14), (0.00025, 15), (0.0, 33)]
)
def test_a_class_is_twice_as_fast_as_the_one_below(seconds: float, found: int) -> None:
    """2 * 192^3 operations in so many seconds, in millions a second, as a power of two."""
    assert calibration.speed_class(seconds) == found


def test_both_facts_can_be_selected() -> None:
    """They keep their form as values of labels."""
    told = reported({"accelerators": "npu_1.gpu", "speed_class": 12})
    assert told == {"fact/accelerators": "npu_1.gpu", "fact/speed_class": "12"}
    assert selectors.parse("fact/accelerators=npu_1.gpu,fact/speed_class>11").matches(told)
    assert not selectors.parse("fact/speed_class>12").matches(told)
