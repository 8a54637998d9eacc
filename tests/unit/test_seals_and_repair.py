"""What a slot says of itself, what one may fall back to, and what a start mends."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.deployment import lifecycle, repair, seals, slots
from agent.deployment.seals import Mark
from firmware_bundles.errors import ShoalError, SlotBroken
from firmware_bundles.wire.messages import DeploymentState, Fault
from support.deployments import FAMILY, V1, V2, fill

S = DeploymentState
FAULT = Fault(code="device.cancelled", message="somebody said so")


def both(root: Path, *, marks: tuple[Mark, Mark] = (Mark.GOOD, Mark.GOOD)) -> None:
    """Slot A holds v1, slot B holds v2, A serves."""
    for name, release, mark in zip("AB", (V1, V2), marks, strict=True):
        slot = slots.slot(root, FAMILY, name)
        fill(slot, release)
        slots.mark(slot, mark)
    slots.switch(root, slots.slot(root, FAMILY, "A"))


def ended(state: DeploymentState) -> lifecycle.Record:
    """A record of v2 in B, over v1 in A."""
    begun = lifecycle.begin(V2.order(2).orders[0], slot="B", previous="A")
    return msgspec.structs.replace(begun, state=state)


def mended(root: Path, record: lifecycle.Record | None) -> tuple[bool, list[str]]:
    """Mend, and say what was detected."""
    detected: list[ShoalError] = []
    return repair.mend(root, FAMILY, record, detected.append), [e.code for e in detected]


def serving(root: Path) -> str | None:
    """The slot that serves."""
    slot = slots.serving(root, FAMILY)
    return slot.name if slot else None


@pytest.mark.parametrize("mark", list(Mark))
def test_a_seal_says_what_was_written(tmp_path: Path, mark: Mark) -> None:
    """The digest and the mark, and nothing else."""
    seals.write(tmp_path, seals.Seal("a" * 64, mark))
    assert seals.read(tmp_path) == seals.Seal("a" * 64, mark)


@pytest.mark.parametrize("said", [b"", b"good", b"a" * 64 + b" fine\n", b"\0" * 70, b"a" * 5000])
def test_a_damaged_seal_breaks_its_slot(tmp_path: Path, said: bytes) -> None:
    """What cannot be told apart from another model is not served."""
    both(tmp_path)
    slot = slots.slot(tmp_path, FAMILY, "A")
    (slot.directory / seals.SEAL_NAME).write_bytes(said)
    with pytest.raises(SlotBroken, match="seal"):
        slots.read(slot)
    assert not slots.is_good(slot)


def test_a_manifest_that_is_not_the_sealed_one_breaks_its_slot(tmp_path: Path) -> None:
    """Also one that reads well: a changed tolerance would let another model through."""
    both(tmp_path)
    slot = slots.slot(tmp_path, FAMILY, "A")
    path = slot.directory / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"rows":1', b'"rows":2'))
    with pytest.raises(SlotBroken, match="not the sealed one"):
        slots.read(slot)


def test_a_slot_of_an_agent_without_seals_still_serves(tmp_path: Path) -> None:
    """An upgrade of the agent takes no model away."""
    both(tmp_path)
    slot = slots.slot(tmp_path, FAMILY, "A")
    (slot.directory / seals.SEAL_NAME).unlink()
    assert slots.read(slot).version == "v1"
    assert slots.is_good(slot)


def test_a_lost_pointer_leads_to_the_last_good_model(tmp_path: Path) -> None:
    """Never to one that is untried or bad."""
    both(tmp_path, marks=(Mark.GOOD, Mark.UNTRIED))
    (tmp_path / FAMILY / slots.POINTER_NAME).write_bytes(b"")
    assert serving(tmp_path) == "A"
    slots.mark(slots.slot(tmp_path, FAMILY, "A"), Mark.BAD)
    assert serving(tmp_path) is None


@pytest.mark.parametrize(
    ("state", "wanted"), [(S.COMMITTED, "B"), (S.ROLLED_BACK, "A"), (S.FAILED, "A")]
)
def test_a_lost_pointer_is_written_as_the_record_says(
    tmp_path: Path, state: DeploymentState, wanted: str
) -> None:
    """The end of the last deployment says which slot serves."""
    both(tmp_path)
    (tmp_path / FAMILY / slots.POINTER_NAME).unlink()
    assert mended(tmp_path, ended(state)) == (True, [])
    assert slots.has_pointer(tmp_path, FAMILY)
    assert serving(tmp_path) == wanted
    assert mended(tmp_path, ended(state)) == (False, [])


@pytest.mark.parametrize("state", [s for s in S if s not in lifecycle.TERMINAL])
def test_a_pointer_that_a_step_will_move_is_left_alone(
    tmp_path: Path, state: DeploymentState
) -> None:
    """Before the switch a lost one is written again; from then on the step does it."""
    both(tmp_path)
    (tmp_path / FAMILY / slots.POINTER_NAME).unlink()
    changed, _ = mended(tmp_path, ended(state))
    assert changed is (state in lifecycle.BEFORE_SWITCHING)
    assert slots.has_pointer(tmp_path, FAMILY) is changed


@pytest.mark.parametrize("mark", list(Mark))
def test_a_broken_slot_gives_way_only_to_a_good_one(tmp_path: Path, mark: Mark) -> None:
    """A model that never proved itself does not serve for want of another."""
    both(tmp_path, marks=(Mark.GOOD, mark))
    model = slots.slot(tmp_path, FAMILY, "A").directory / "model.tflite"
    model.write_bytes(model.read_bytes()[:-1])
    changed, detected = mended(tmp_path, None)
    assert detected == ["device.slot_broken"]
    assert changed is (mark is Mark.GOOD)
    assert serving(tmp_path) == ("B" if changed else "A")


def test_a_person_goes_back_only_to_a_whole_good_slot(tmp_path: Path) -> None:
    """The record that comes of it is on its way to the other slot."""
    both(tmp_path)
    back = repair.reverted(tmp_path, ended(S.FAILED), FAULT)
    assert (back.state, back.slot, back.previous) == (S.ROLLING_BACK, "A", "B")
    slots.mark(slots.slot(tmp_path, FAMILY, "B"), Mark.BAD)
    with pytest.raises(SlotBroken, match="not marked good"):
        repair.reverted(tmp_path, ended(S.FAILED), FAULT)


def test_what_cut_writes_left_is_swept(tmp_path: Path) -> None:
    """A device that is killed often does not fill its disk with temporary files."""
    both(tmp_path)
    slot = slots.slot(tmp_path, FAMILY, "B")
    for folder in (tmp_path / FAMILY, slot.directory):
        (folder / ".serving.abcd").write_bytes(b"A")
    slots.sweep(tmp_path)
    assert not list(tmp_path.rglob(".*"))
    assert slots.read(slot).version == "v2"
