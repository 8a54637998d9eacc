"""Deployments over a real disk and database, with a worker that follows the pointer."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from agent.deployment import lifecycle, slots
from agent.deployment.conditions import Permission
from agent.deployment.seals import Mark
from agent.inference import control
from firmware_bundles.capabilities import Capabilities
from firmware_bundles.errors import NeedsUnmet, SelfTestFailed
from firmware_bundles.limits import FAMILIES_PER_DEVICE_MAX
from firmware_bundles.manifest import Needs
from firmware_bundles.wire.messages import DeploymentState
from support.deployments import FAMILY, V1, V2, V3, Device, Release, deployed

S = DeploymentState


def test_a_model_goes_the_whole_way(tmp_path: Path) -> None:
    """Each state once, in order; the pointer, the worker and the slot's record agree."""

    async def run() -> None:
        device = await deployed(tmp_path)
        device.updater.offer(V1.order(1))
        assert (await device.ended(1)).state is S.COMMITTED
        order = [S.FETCHING, S.STAGING, S.SELF_TESTING, S.SHADOWING, S.SWITCHING]
        assert device.states == [*order, S.PROBATION, S.COMMITTING, S.COMMITTED]
        assert device.serving() == "v1"
        assert device.worker.digest == V1.digest
        assert list((tmp_path / "chunks").iterdir()) == []

    asyncio.run(run())


def test_going_back_to_the_model_in_the_other_slot_downloads_nothing(tmp_path: Path) -> None:
    """A rollback by the fleet costs no bytes."""

    async def run() -> None:
        device = await deployed(tmp_path, V1, V2)
        device.line.is_silent = True
        device.updater.offer(V1.order(3))
        assert (await device.ended(3)).state is S.COMMITTED
        assert device.serving() == "v1"

    asyncio.run(run())


def test_what_serves_already_is_committed_under_the_new_generation(tmp_path: Path) -> None:
    """Without a swap and without probation."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        asked = len(device.worker.asked)
        device.updater.offer(V1.order(2))
        record = await device.ended(2)
        assert (record.state, record.generation) == (S.COMMITTED, 2)
        assert device.states == [S.FETCHING, S.COMMITTED]
        assert len(device.worker.asked) == asked

    asyncio.run(run())


def test_a_model_that_fails_its_self_test_never_serves(tmp_path: Path) -> None:
    """FAILED with the reason, and the old model untouched."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.worker.failing_self_test = {"v2"}
        device.updater.offer(V2.order(2))
        record = await device.ended(2)
        assert record.state is S.FAILED
        assert record.fault is not None
        assert record.fault.code == SelfTestFailed.code
        assert device.serving() == "v1"
        assert S.SWITCHING not in device.states

    asyncio.run(run())


@pytest.mark.parametrize("harm", ["silent", "dying"])
def test_harm_in_probation_brings_the_old_model_back(tmp_path: Path, harm: str) -> None:
    """Locally and at once, whatever the control plane does."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        if harm == "silent":
            device.worker.failing_service = {"v2"}
        device.updater.offer(V2.order(2, probation_s=5.0))
        await device.reaches(S.PROBATION)
        await asyncio.sleep(0.05)
        device.worker.died += 3 if harm == "dying" else 0
        record = await device.ended(2)
        assert record.state is S.ROLLED_BACK
        assert record.fault is not None
        assert record.fault.code == "device.probation_failed"
        assert (device.serving(), device.worker.digest) == ("v1", V1.digest)

    asyncio.run(run())


def test_a_first_model_that_fails_probation_leaves_nothing_serving(tmp_path: Path) -> None:
    """There is nothing to go back to: better no answer than a bad one."""

    async def run() -> None:
        device = await deployed(tmp_path)
        device.worker.failing_service = {"v1"}
        device.updater.offer(V1.order(1, probation_s=5.0))
        assert (await device.ended(1)).state is S.ROLLED_BACK
        assert device.serving() is None
        assert isinstance(device.worker.asked[-1], control.Unload)

    asyncio.run(run())


def test_a_newer_generation_in_probation_rolls_back_first(tmp_path: Path) -> None:
    """Then it is carried out."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.updater.offer(V2.order(2, probation_s=30.0))
        await device.reaches(S.PROBATION)
        device.updater.offer(V3.order(3))
        record = await device.ended(3)
        assert (record.state, device.serving()) == (S.COMMITTED, "v3")
        assert S.ROLLED_BACK in device.states

    asyncio.run(run())


def test_a_newer_generation_ends_a_download(tmp_path: Path) -> None:
    """What can no longer be fetched does not stand in the way."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.line.is_silent = True
        device.updater.offer(V2.order(2))
        await device.reaches(S.FETCHING)
        device.line.is_silent = False
        device.updater.offer(V3.order(3))
        assert (await device.ended(3)).state is S.COMMITTED
        assert device.serving() == "v3"
        assert device.updater.generations() == {FAMILY: 3}

    asyncio.run(run())


def test_an_older_or_equal_generation_changes_nothing(tmp_path: Path) -> None:
    """Generations only grow."""

    async def run() -> None:
        device = await deployed(tmp_path, V1, V2)
        device.updater.offer(V1.order(2))
        device.updater.offer(V1.order(1))
        await asyncio.sleep(0.1)
        assert device.states == []
        assert device.serving() == "v2"

    asyncio.run(run())


@pytest.mark.parametrize(
    "state", [s for s in S if s not in lifecycle.TERMINAL and s is not S.ROLLING_BACK]
)
def test_a_crash_in_any_state_is_gone_on_from(tmp_path: Path, state: DeploymentState) -> None:
    """After the restart the device finishes by itself, offline once the chunks are there."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.crash_in = state
        device.updater.offer(V2.order(2))
        await device.crashed.wait()
        await device.crash()
        sent = device.line.sent
        again = Device(tmp_path)
        again.line.is_silent = state is not S.FETCHING
        again.start()
        record = await again.ended(2)
        assert (record.state, again.serving()) == (S.COMMITTED, "v2")
        assert sent + again.line.sent <= len(V1.chunks) + len(V2.chunks) + 8

    asyncio.run(run())


def test_a_crash_while_rolling_back_ends_rolled_back(tmp_path: Path) -> None:
    """There is no way but back."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.worker.failing_service = {"v2"}
        device.crash_in = S.ROLLING_BACK
        device.updater.offer(V2.order(2, probation_s=5.0))
        await device.crashed.wait()
        await device.crash()
        again = Device(tmp_path)
        again.start()
        assert (await again.ended(2)).state is S.ROLLED_BACK
        assert again.serving() == "v1"

    asyncio.run(run())


def test_an_orderly_stop_in_probation_keeps_the_time_and_is_not_counted(tmp_path: Path) -> None:
    """A device that is switched off every evening commits nevertheless."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.updater.offer(V2.order(2, probation_s=5.0))
        await device.reaches(S.PROBATION)
        await asyncio.sleep(0.7)
        await device.updater.stop()
        kept = device.state.records()[FAMILY]
        device.state.close()
        assert kept.is_suspended
        assert kept.elapsed_s > 0.1
        again = Device(tmp_path)
        again.start()
        await asyncio.sleep(0.1)
        record = again.updater.records[FAMILY]
        assert (record.state, record.attempts) == (S.PROBATION, 0)
        await again.crash()

    asyncio.run(run())


def test_a_worker_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """Its restart is no fault of the model."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.worker.is_away = True
        device.updater.offer(V2.order(2))
        await device.reaches(S.SELF_TESTING)
        device.worker.is_away = False
        assert (await device.ended(2)).state is S.COMMITTED

    asyncio.run(run())


def test_a_pointer_to_a_broken_slot_is_mended_at_the_start(tmp_path: Path) -> None:
    """The other slot is whole: it serves, and the damage is told."""

    async def run() -> None:
        device = await deployed(tmp_path, V1, V2)
        await device.crash()
        slot = slots.serving(device.root, FAMILY)
        assert slot is not None
        (slot.directory / "model.tflite").write_bytes(b"rotten")
        worker_root = device.root
        slots.switch(worker_root, slots.other(worker_root, FAMILY))
        again = Device(tmp_path)  # the worker of the test reads only whole slots
        slots.switch(worker_root, slot)
        again.start()
        assert again.serving() == "v1"
        assert [error.code for error in again.detected] == ["device.slot_broken"]
        await again.crash()

    asyncio.run(run())


def rot(device: Device) -> None:
    """Damage the model in both slots."""
    for name in slots.NAMES:
        (slots.slot(device.root, FAMILY, name).directory / "model.tflite").write_bytes(b"rotten")


def test_a_model_of_which_nothing_is_left_is_fetched_again(tmp_path: Path) -> None:
    """Under the generation it had: the hello asks for that order once more, and for no older."""

    async def run() -> None:
        device = await deployed(tmp_path, V1, V2)
        assert await device.updater.checked_generations() == {FAMILY: 2}
        rot(device)
        assert await device.updater.checked_generations() == {FAMILY: 1}
        assert device.updater.known_generations() == {FAMILY: 1}
        device.updater.offer(V2.order(2))
        await device.reaches(S.COMMITTED)
        assert device.serving() == "v2"
        assert await device.updater.checked_generations() == {FAMILY: 2}

    asyncio.run(run())


def test_a_model_that_is_left_in_one_slot_is_not_fetched_again(tmp_path: Path) -> None:
    """Not even one that somebody marked bad, while it serves."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.updater.mark(FAMILY, "A", Mark.BAD)
        assert await device.updater.checked_generations() == {FAMILY: 1}

    asyncio.run(run())


def test_a_lost_model_that_fails_the_second_time_is_not_fetched_a_third(tmp_path: Path) -> None:
    """A newer generation is needed then."""

    async def run() -> None:
        device = await deployed(tmp_path, V1, V2)
        rot(device)
        await device.updater.checked_generations()
        device.worker.failing_self_test = {"v2"}
        device.updater.offer(V2.order(2))
        await device.reaches(S.FAILED)
        assert await device.updater.checked_generations() == {FAMILY: 2}

    asyncio.run(run())


def test_a_device_that_lost_its_state_takes_nothing_new(tmp_path: Path) -> None:
    """It serves on, and says so."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.state.mark_damaged(is_damaged=True)
        device.updater.offer(V2.order(2))
        await asyncio.sleep(0.1)
        assert device.states == []
        assert [error.code for error in device.detected] == ["device.state_damaged"]
        assert device.serving() == "v1"

    asyncio.run(run())


def test_a_rollback_that_the_disk_refuses_is_tried_until_it_is_done(tmp_path: Path) -> None:
    """ROLLED_BACK is never said while the pointer still names the bad model."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.updater.offer(V2.order(2, probation_s=30.0))
        await device.reaches(S.PROBATION)
        pointer = device.root / FAMILY / slots.POINTER_NAME
        pointer.unlink()
        (pointer / "in-the-way").mkdir(parents=True)
        await asyncio.sleep(0.05)
        device.worker.died += 3
        await device.reaches(S.ROLLING_BACK)
        await asyncio.sleep(2.0)  # longer than the refusals that a worker is granted
        assert device.updater.records[FAMILY].state is S.ROLLING_BACK
        shutil.rmtree(pointer)
        assert (await device.ended(2)).state is S.ROLLED_BACK
        assert (device.serving(), device.worker.digest) == ("v1", V1.digest)

    asyncio.run(run())


def test_a_fault_that_nobody_foresaw_ends_a_deployment(tmp_path: Path) -> None:
    """It is told as the deployment's fault; nothing hangs until the next start."""

    class Broken(set[str]):
        def __contains__(self, item: object) -> bool:
            raise KeyError(item)

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.worker.failing_self_test = Broken()
        device.updater.offer(V2.order(2))
        record = await device.ended(2)
        assert record.state is S.FAILED
        assert record.fault is not None
        assert record.fault.message == "the step failed: KeyError('v2')"
        assert device.serving() == "v1"

    asyncio.run(run())


def test_a_family_too_many_is_told(tmp_path: Path) -> None:
    """What there is no room for is not passed over in silence."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.line.is_silent = True
        order = V1.order(2).orders[0]
        names = [f"f{number}" for number in range(FAMILIES_PER_DEVICE_MAX)]
        orders = tuple(msgspec.structs.replace(order, family=name) for name in names)
        device.updater.offer(msgspec.structs.replace(V1.order(2), orders=orders))
        assert [error.message for error in device.detected] == [
            f"there is no room for one more family, {names[-1]}"
        ]
        await device.updater.stop()
        device.state.close()

    asyncio.run(run())


def test_an_update_that_may_not_go_on_waits_and_says_what_for(tmp_path: Path) -> None:
    """Over a restart, too; and goes on by itself."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.permission = Permission(0, ("mains power", "the maintenance window 01:00-02:00"))
        sent = device.line.sent
        device.updater.offer(V2.order(2))
        await device.waits()
        await device.crash()
        again = Device(tmp_path)
        again.permission = device.permission
        again.start()
        record = again.state.records()[FAMILY]
        assert record.waits_for == "mains power; the maintenance window 01:00-02:00"
        assert again.line.sent == 0
        assert device.line.sent == sent
        again.permission = Permission(None)
        ended = await again.ended(2)
        assert (ended.state, ended.waits_for) == (S.COMMITTED, None)
        await again.crash()

    asyncio.run(run())


def test_a_budget_for_some_chunks_lets_those_come_and_no_more(tmp_path: Path) -> None:
    """The rest comes when there is budget again; nothing is fetched twice."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        before = device.line.sent
        device.permission = Permission(1)
        device.updater.offer(V2.order(2))
        assert (await device.ended(2)).state is S.COMMITTED
        assert device.line.sent - before == len(V2.chunks)
        await device.crash()

    asyncio.run(run())


def test_a_model_that_needs_more_is_not_fetched(tmp_path: Path) -> None:
    """The manifest says it: FAILED while fetching, with the operation, and no other chunk asked."""

    async def run() -> None:
        release = Release("v4", needs=Needs(operations={"FULLY_CONNECTED": 12}, memory_bytes=2**40))
        device = await deployed(tmp_path, V1)
        device.offered = Capabilities("tflite-runtime 2.14.0", {"FULLY_CONNECTED": 10}, 2**30)
        device.line.retained = device.line.retained | release.chunks
        device.line.asked.clear()
        device.states.clear()
        device.updater.offer(release.order(2))
        record = await device.ended(2)
        assert device.states == [S.FETCHING, S.FAILED]
        assert record.fault is not None
        assert record.fault.code == NeedsUnmet.code
        assert "FULLY_CONNECTED version 12" in record.fault.message
        assert "bytes of memory" in record.fault.message
        assert device.line.asked == {release.digest}
        assert device.serving() == "v1"

    asyncio.run(run())


def test_a_model_for_another_kind_of_board_is_not_fetched(tmp_path: Path) -> None:
    """Neither its accelerator nor the speed that it needs is here: only the manifest moves."""

    async def run() -> None:
        release = Release("v4", needs=Needs(accelerator="edgetpu", speed_class_min=12))
        device = await deployed(tmp_path, V1)
        device.offered = Capabilities("test", {}, accelerators=(), speed_class=9)
        device.line.retained = device.line.retained | release.chunks
        device.line.asked.clear()
        device.updater.offer(release.order(2))
        record = await device.ended(2)
        assert record.fault is not None
        assert record.fault.code == NeedsUnmet.code
        assert "needs the accelerator edgetpu; configured: none" in record.fault.message
        assert "needs speed class 12 or higher; 9 was measured" in record.fault.message
        assert device.line.asked == {release.digest}
        assert device.serving() == "v1"

    asyncio.run(run())
