"""Patches on a device: real disk, real children; the broker is a dictionary."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.children import AnswerT, Children
from agent.deployment.lifecycle import Record
from agent.task_messages import ApplyPatch, Request
from firmware_bundles import chunks, patches
from firmware_bundles.errors import PatchRefused, TaskFailed
from firmware_bundles.wire.messages import DeploymentState, PatchReference, Transfer
from support.deployments import V1, V2, Device, Release, deployed

S = DeploymentState
MODEL = "model.tflite"


class Patch:
    """The patch from one release's model to another's, with what a broker retains of it."""

    def __init__(self, source: Release, target: Release, data: bytes | None = None) -> None:
        if data is None:
            data = patches.create(source.files[MODEL], target.files[MODEL])
        self.length = len(data)
        content = chunks.pack(data)
        self.chunks = dict(content.chunks)
        self.reference = PatchReference(
            file=MODEL,
            source=chunks.digest_of(source.files[MODEL]),
            length=len(data),
            content=content.digest,
        )


async def updated(device: Device, patch: Patch, generation: int = 2) -> Record:
    """Let a device that serves V1 take V2, by this patch if it wants."""
    device.line.retained = device.line.retained | patch.chunks
    device.line.sent = 0
    device.updater.offer(V2.order(generation, patches=(patch.reference,)))
    record = await device.ended(generation)
    assert (record.state, device.serving()) == (S.COMMITTED, "v2")
    await device.children.stop()
    return record


def sent_model_chunks(device: Device) -> int:
    """How many chunks of the new model were asked for."""
    return sum(digest in device.line.asked for digest in dict(V2.model_chunks))


def test_a_patch_takes_the_place_of_the_models_chunks(tmp_path: Path) -> None:
    """Nothing of the model itself is fetched, and the device says what it saved."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        patch = Patch(V1, V2)
        record = await updated(device, patch)
        assert sent_model_chunks(device) == 0
        assert device.detected == []
        small = len(V2.files["golden.msgpack"])
        whole = len(V2.files[MODEL])
        assert record.transfer == Transfer(
            chunk_bytes=small, patch_bytes=patch.length, saved_bytes=whole - patch.length
        )

    asyncio.run(run())


def _truncated(data: bytes) -> bytes:
    return data[:-7]


def _flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 0x40]) + data[-8:]


def _for_another_target(_data: bytes) -> bytes:
    return patches.create(V1.files[MODEL], V1.files[MODEL] + b"x")


@pytest.mark.parametrize("harm", [_truncated, _flipped, _for_another_target])
def test_a_patch_that_does_not_work_is_told_and_the_model_comes_whole(
    tmp_path: Path, harm: object
) -> None:
    """Whatever is wrong with it: the release is installed, and the fault is in every report."""

    async def run() -> None:
        assert callable(harm)
        device = await deployed(tmp_path, V1)
        good = patches.create(V1.files[MODEL], V2.files[MODEL])
        record = await updated(device, Patch(V1, V2, harm(good)))
        assert {type(error) for error in device.detected} == {PatchRefused}
        assert record.transfer is not None
        assert record.transfer.patch_bytes == 0
        assert record.transfer.chunk_bytes > 0

    asyncio.run(run())


def test_a_patch_that_the_broker_no_longer_has_is_not_waited_for(tmp_path: Path) -> None:
    """It may have been retired between the order and the download."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        patch = Patch(V1, V2)
        patch.chunks = {}
        await updated(device, patch)
        assert {type(error) for error in device.detected} == {PatchRefused}
        assert sent_model_chunks(device) == 2

    asyncio.run(run())


def test_a_device_without_the_source_fetches_the_model(tmp_path: Path) -> None:
    """It is no fault: the order may have been made before a rollback."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        other = Release("other")
        await updated(device, Patch(other, V2))
        assert device.detected == []
        assert sent_model_chunks(device) == 2

    asyncio.run(run())


def test_a_damaged_source_is_noticed_before_anything_is_fetched_for_it(tmp_path: Path) -> None:
    """The source's digest is checked, not only what its manifest says."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        for path in (tmp_path / "slots").rglob(MODEL):
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        patch = Patch(V1, V2)
        await updated(device, patch)
        assert patch.reference.content not in device.line.asked

    asyncio.run(run())


def test_an_interrupted_patch_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What was made before stays, the patch is not fetched again, the model never."""

    class Dying(Children):
        """Applies the patch, then takes the answer with it."""

        async def run(self, request: Request, answer: type[AnswerT]) -> AnswerT:
            await super().run(request, answer)
            assert isinstance(request, ApplyPatch)
            model = sorted((tmp_path / "chunks").iterdir(), key=lambda path: path.stat().st_size)
            model[-1].unlink()
            applied.set()
            await asyncio.Event().wait()
            raise TaskFailed("never reached")

    applied = asyncio.Event()

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        patch = Patch(V1, V2)
        await device.crash()
        device = Device(tmp_path)
        device.children = Dying(s_max=60)
        device.start()
        device.line.retained = device.line.retained | patch.chunks
        device.updater.offer(V2.order(2, patches=(patch.reference,)))
        await applied.wait()
        await device.children.stop()
        await device.crash()
        again = Device(tmp_path)
        again.line.retained = again.line.retained | patch.chunks
        again.start()
        assert (await again.ended(2)).state is S.COMMITTED
        await again.children.stop()
        assert not {patch.reference.content, *dict(V2.model_chunks)} & again.line.asked
        assert again.detected == []

    asyncio.run(run())
