"""Slots: the pointer moves whole or not at all, and a broken slot is never taken for a model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.deployment import slots
from firmware_bundles import chunks, durable, manifest
from firmware_bundles.errors import SlotBroken, SlotUnwritable, StorageFull
from support.filled import fill

FAMILY = "digits"


def bundle(model: bytes = b"model", family: str = FAMILY) -> tuple[bytes, dict[str, bytes]]:
    """A bundle small enough to read in a test."""
    files = {"model.tflite": model, "golden.msgpack": b"golden"}
    tensor = manifest.Tensor(name="image", datatype="INT8", shape=(1, 8))
    entries = tuple(
        manifest.FileEntry(
            name=name,
            length=len(data),
            digest=chunks.digest_of(data),
            chunks=tuple(chunk.digest for chunk in chunks.cut(data)),
        )
        for name, data in files.items()
    )
    facts = manifest.Manifest(
        family=family,
        version="1",
        model="model.tflite",
        inputs=(tensor,),
        outputs=(tensor,),
        files=entries,
        golden=manifest.Golden(rows=1, runtime="test"),
    )
    return manifest.encode(facts), files


def staged(root: Path, name: str, model: bytes = b"model") -> slots.Slot:
    """A slot that holds a whole bundle."""
    slot = slots.slot(root, FAMILY, name)
    data, files = bundle(model)
    fill(slot, data, files)
    return slot


def test_a_staged_slot_reads_back(tmp_path: Path) -> None:
    """What was staged is what is read, under the digest of its manifest."""
    slot = staged(tmp_path, "A")
    data, _ = bundle()
    assert slots.read(slot) == manifest.parse(data)
    assert slots.manifest_digest(slot) == chunks.digest_of(data)
    assert slots.holds(slot, chunks.digest_of(data))
    assert slots.families(tmp_path) == [FAMILY]


def test_the_pointer_names_what_serves_and_the_other_slot_is_for_staging(tmp_path: Path) -> None:
    """Nothing serves before the first switch; then the pointer and its opposite."""
    first = staged(tmp_path, "A")
    assert slots.serving(tmp_path, FAMILY) is None
    assert slots.other(tmp_path, FAMILY) == first
    slots.switch(tmp_path, first)
    assert slots.serving(tmp_path, FAMILY) == first
    assert slots.other(tmp_path, FAMILY).name == "B"
    slots.switch(tmp_path, slots.other(tmp_path, FAMILY))
    assert slots.other(tmp_path, FAMILY) == first
    slots.unset(tmp_path, FAMILY)
    assert slots.serving(tmp_path, FAMILY) is None


@pytest.mark.parametrize("said", [b"", b"C\n", b"\xff\xfe", b"AB\n", b"../../etc\n"])
def test_a_pointer_that_says_nothing_readable_names_no_slot(tmp_path: Path, said: bytes) -> None:
    """A broken pointer file is no pointer, never an error and never a path."""
    staged(tmp_path, "A")
    (tmp_path / FAMILY / slots.POINTER_NAME).write_bytes(said)
    assert slots.serving(tmp_path, FAMILY) is None


def test_an_interrupted_write_leaves_the_old_pointer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power lost before the rename: the old pointer stands, whole."""
    first, second = staged(tmp_path, "A"), staged(tmp_path, "B")
    slots.switch(tmp_path, first)

    def cut(_self: Path, _target: Path) -> Path:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(SlotUnwritable):
        slots.switch(tmp_path, second)
    assert slots.serving(tmp_path, FAMILY) == first


@pytest.mark.parametrize(
    "damage",
    [
        lambda slot: (slot.directory / "model.tflite").write_bytes(b"mOdel"),
        lambda slot: (slot.directory / "model.tflite").write_bytes(b"model and more"),
        lambda slot: (slot.directory / "golden.msgpack").unlink(),
        lambda slot: (slot.directory / manifest.MANIFEST_NAME).unlink(),
        lambda slot: (slot.directory / manifest.MANIFEST_NAME).write_bytes(b"{"),
        lambda slot: (slot.directory / manifest.MANIFEST_NAME).write_bytes(bundle(family="x")[0]),
    ],
)
def test_a_damaged_slot_is_refused(tmp_path: Path, damage: object) -> None:
    """A flipped byte, a longer file, a missing file, a broken or foreign manifest: SlotBroken."""
    slot = staged(tmp_path, "A")
    digest = slots.manifest_digest(slot)
    damage(slot)  # type: ignore[operator]
    with pytest.raises(SlotBroken):
        slots.read(slot)
    assert not slots.holds(slot, digest)


def test_staging_interrupted_anywhere_never_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many writes still succeeded, the slot is whole and new, or it is refused."""
    data, files = bundle(b"new model")
    whole = durable.write
    for budget in range(len(files) + 2):
        slot = staged(tmp_path, "A", b"old model")
        left = budget

        def write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
            nonlocal left
            if left == 0:
                raise OSError(28, "No space left on device")
            left -= 1
            whole(path, content, mode=mode)

        with monkeypatch.context() as patch:
            patch.setattr(durable, "write", write)
            try:
                fill(slot, data, files)
            except StorageFull:
                assert not slots.holds(slot, chunks.digest_of(data))
                with pytest.raises(SlotBroken):
                    slots.read(slot)
            else:
                assert msgspec.json.decode(data)["files"]
                assert slots.holds(slot, chunks.digest_of(data))
