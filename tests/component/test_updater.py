"""Deployments over a real disk and database, with a worker that follows the pointer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.deployment import lifecycle, slots
from agent.deployment.downloads import ChunkStore, Downloads
from agent.deployment.steps import Steps
from agent.deployment.updater import Updater
from agent.inference import control
from agent.store import state_schema
from agent.store.state import State
from firmware_bundles import chunks, manifest
from firmware_bundles.errors import SelfTestFailed, ShoalError, WorkerUnavailable
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import (
    Arm,
    Assignment,
    DeploymentState,
    ModelReference,
    Order,
    Policy,
)

S = DeploymentState
FAMILY = "digits"


class Release:
    """A bundle that a broker retains: its manifest and its chunks."""

    def __init__(self, version: str) -> None:
        files = {
            "model.tflite": version.encode() * 50_000,
            "golden.msgpack": b"g" + version.encode(),
        }
        tensor = manifest.Tensor(name="image", datatype="INT8", shape=(1, 8))
        self.chunks = {c.digest: c.data for data in files.values() for c in chunks.cut(data)}
        entries = tuple(
            manifest.FileEntry(
                name=name,
                length=len(data),
                digest=chunks.digest_of(data),
                chunks=tuple(chunk.digest for chunk in chunks.cut(data)),
            )
            for name, data in files.items()
        )
        data = manifest.encode(
            manifest.Manifest(
                family=FAMILY,
                version=version,
                model="model.tflite",
                inputs=(tensor,),
                outputs=(tensor,),
                files=entries,
                golden=manifest.Golden(rows=1, runtime="test"),
            )
        )
        self.digest = chunks.digest_of(data)
        self.chunks[self.digest] = data
        self.model = ModelReference(
            path=f"{FAMILY}/{version}/manifest.json", digest=self.digest, length=len(data)
        )

    def order(self, generation: int, probation_s: float = 0.05) -> Assignment:
        """An admitted assignment of this release."""
        order = Order(
            family=FAMILY,
            generation=generation,
            model=self.model,
            rollout="r1",
            arm=Arm.CANDIDATE,
            policy=Policy(probation_s=probation_s, self_test_s_max=0.5),
        )
        return Assignment(device="d1", issued=1.0, expires=2.0, orders=(order,))


V1, V2, V3 = Release("v1"), Release("v2"), Release("v3")


class Line:
    """A broker that retains all chunks of the three releases and counts what it sent."""

    def __init__(self) -> None:
        self.sent = 0
        self.is_silent = False
        self.deliver: Callable[[str, bytes], None] = lambda _digest, _data: None

    def subscribe(self, filters: Sequence[str]) -> None:
        """Send what is retained."""
        retained = V1.chunks | V2.chunks | V3.chunks
        for topic in () if self.is_silent else filters:
            digest = topics.parse_chunk(topic) or ""
            self.sent += 1
            asyncio.get_running_loop().call_soon(self.deliver, digest, retained[digest])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Nothing to forget."""


class PointerWorker:
    """A worker that serves what the pointer names; `failing` versions do not pass or not serve."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incarnation = 1
        self.failing_self_test: set[str] = set()
        self.failing_service: set[str] = set()
        self.is_away = False
        self.died = 0
        self.asked: list[control.Request] = []
        self.read_pointer()

    def read_pointer(self) -> None:
        """What a start of the worker does."""
        serving = slots.serving(self.root, FAMILY)
        self.served = slots.read(serving) if serving else None
        self.digest = slots.manifest_digest(serving) if serving else None

    async def ask(self, request: control.Request, _timeout_s: float) -> control.Response:
        """Answer as the real one does."""
        self.asked.append(request)
        if self.is_away:
            raise WorkerUnavailable("away")
        if isinstance(request, control.SelfTest):
            slot = slots.slot(self.root, FAMILY, request.slot)
            if slots.read(slot).version in self.failing_self_test:
                raise SelfTestFailed("the golden vectors do not agree")
            return control.SelfTestAnswer(
                digest=slots.manifest_digest(slot),
                runtime="test",
                rows=1,
                difference_lsb_max=0,
                difference_absolute_max=0,
                latency_us_p50=1,
                latency_us_max=1,
                memory_bytes_peak=1,
            )
        self.read_pointer()
        return control.Done(family=self._family())

    async def status(self) -> control.StatusAnswer:
        """What serves."""
        if self.is_away:
            raise WorkerUnavailable("away")
        return control.StatusAnswer(
            incarnation=f"{self.incarnation:016x}", families={FAMILY: self._family()}
        )

    def deaths(self) -> int:
        """How often it died."""
        return self.died

    def _family(self) -> control.FamilyStatus:
        if self.served is None:
            return control.FamilyStatus()
        is_ready = self.served.version not in self.failing_service
        return control.FamilyStatus(digest=self.digest, version=self.served.version, ready=is_ready)


class Device:
    """The deployment part of a device, over a folder; made anew it is a device after a restart."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "slots"
        self.line = Line()
        self.worker = PointerWorker(self.root)
        self.detected: list[ShoalError] = []
        self.states: list[DeploymentState] = []
        self.crash_in: DeploymentState | None = None
        path = folder / "state.db"
        if not path.exists():
            state_schema.prepare(path)
        self.state = State.open(path)
        self.store = ChunkStore(folder / "chunks")
        self.crashed = asyncio.Event()
        self._changes = asyncio.Event()

    def start(self) -> None:
        """Start as the core does."""
        self.downloads = Downloads(
            self.store, self.line, window=8, stall_s=5.0, detect=self.detected.append
        )
        self._arriving: set[asyncio.Task[None]] = set()

        def deliver(digest: str, data: bytes) -> None:
            self._arriving.add(asyncio.create_task(self.downloads.received(digest, data)))

        self.line.deliver = deliver
        steps = Steps(
            self.root,
            state=self.state,
            store=self.store,
            downloads=self.downloads,
            worker=self.worker,
            clock=Clock(),
            patience_s=0.3,
            detect=self.detected.append,
        )
        self.updater = Updater(
            steps, self.state, on_change=self._changed, detect=self.detected.append
        )
        self.downloads.connection_changed(is_up=True)
        self.updater.start()

    def _changed(self, record: lifecycle.Record) -> None:
        self.states.append(record.state)
        self._changes.set()
        if record.state is self.crash_in:
            self.crashed.set()

    async def ended(self, generation: int) -> lifecycle.Record:
        """Wait until the deployment with this generation has ended."""
        async with asyncio.timeout(10):
            while not self._has_ended(generation):
                await self._changes.wait()
                self._changes.clear()
        return self.updater.records[FAMILY]

    def _has_ended(self, generation: int) -> bool:
        record = self.updater.records.get(FAMILY)
        return bool(record and record.generation >= generation and not lifecycle.is_open(record))

    async def reaches(self, state: DeploymentState) -> None:
        """Wait until a deployment was in this state."""
        async with asyncio.timeout(10):
            while state not in self.states:
                await self._changes.wait()
                self._changes.clear()

    async def crash(self) -> None:
        """End without any farewell: what is on disk is all there is."""
        tasks = list(self.updater._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._arriving, return_exceptions=True)
        self.state.close()

    def serving(self) -> str | None:
        """The version that the pointer names."""
        slot = slots.serving(self.root, FAMILY)
        return slots.read(slot).version if slot else None


async def deployed(folder: Path, *releases: Release) -> Device:
    """A device that runs the last of these releases."""
    device = Device(folder)
    device.start()
    for generation, release in enumerate(releases, start=1):
        device.updater.offer(release.order(generation))
        assert (await device.ended(generation)).state is S.COMMITTED
    device.states.clear()
    return device


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
