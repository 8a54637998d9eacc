"""The deployment part of a device over a real disk and database, for tests.

Its worker follows the pointer without any model; its broker is a dictionary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from agent.children import Children
from agent.clock import Clock
from agent.deployment import lifecycle, slots
from agent.deployment.chunk_store import ChunkStore
from agent.deployment.conditions import Permission
from agent.deployment.downloads import Downloads
from agent.deployment.fetching import Fetching
from agent.deployment.patching import SlotPatching
from agent.deployment.steps import Steps, Worker
from agent.deployment.updater import Updater
from agent.inference import control
from agent.store import state_schema
from agent.store.state import State
from firmware_bundles import chunks, manifest
from firmware_bundles.capabilities import Capabilities
from firmware_bundles.errors import SelfTestFailed, ShoalError, WorkerUnavailable
from firmware_bundles.limits import CHUNK_BYTES_MAX
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import (
    Arm,
    Assignment,
    Capture,
    Conditions,
    DeploymentState,
    ModelReference,
    Order,
    Patches,
    Policy,
    Shadowing,
)
from support import filled

S = DeploymentState
# States of devices that lost their power: closed when the test is over.
OPENED: list[State] = []
FAMILY = "digits"
Judge = Callable[[Conditions, int, bool], Permission]


class Release:
    """A bundle that a broker retains: its manifest and its chunks."""

    def __init__(
        self, version: str, family: str = FAMILY, needs: manifest.Needs | None = None
    ) -> None:
        name = version if family == FAMILY else f"{family}{version}"
        files = {
            "model.tflite": name.encode() * 50_000,
            "golden.msgpack": b"g" + name.encode(),
        }
        tensor = manifest.Tensor(name="image", datatype="INT8", shape=(1, 8))
        self.files = files
        self.model_chunks = tuple(chunks.cut(files["model.tflite"]))
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
                family=family,
                version=version,
                model="model.tflite",
                inputs=(tensor,),
                outputs=(tensor,),
                files=entries,
                golden=manifest.Golden(rows=1, runtime="test"),
                needs=needs or manifest.Needs(),
            )
        )
        self.family = family
        self.manifest = data
        self.digest = chunks.digest_of(data)
        self.chunks[self.digest] = data
        self.model = ModelReference(
            path=f"{family}/{version}/manifest.json", digest=self.digest, length=len(data)
        )

    def order(
        self,
        generation: int,
        probation_s: float = 0.05,
        patches: Patches | UnsetType = UNSET,
        *,
        attempts_max: int = 3,
        shadow: Shadowing | UnsetType = UNSET,
        capture: Capture | UnsetType = UNSET,
    ) -> Assignment:
        """An admitted assignment of this release."""
        order = Order(
            family=self.family,
            generation=generation,
            model=self.model,
            rollout="r1",
            arm=Arm.CANDIDATE,
            policy=Policy(
                probation_s=probation_s,
                self_test_s_max=0.5,
                attempts_max=attempts_max,
                shadow=shadow,
                capture=capture,
            ),
            patches=patches,
        )
        return Assignment(device="d1", issued=1.0, expires=2.0, orders=(order,))


def fill(slot: slots.Slot, release: Release) -> None:
    """Put a release into a slot."""
    filled.fill(slot, release.manifest, release.files)


V1, V2, V3 = Release("v1"), Release("v2"), Release("v3")


class Line:
    """A broker that retains all chunks of the three releases and counts what it sent."""

    def __init__(self) -> None:
        self.sent = 0
        self.asked: set[str] = set()
        self.retained = V1.chunks | V2.chunks | V3.chunks
        self.is_silent = False
        self.deliver: Callable[[str, bytes], None] = lambda _digest, _data: None

    def subscribe(self, filters: Sequence[str]) -> None:
        """Send what is retained."""
        for topic in () if self.is_silent else filters:
            digest = topics.parse_chunk(topic) or ""
            self.sent += 1
            self.asked.add(digest)
            if digest in self.retained:
                asyncio.get_running_loop().call_soon(self.deliver, digest, self.retained[digest])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Nothing to forget."""

    def publish(self, _topic: str, _payload: bytes) -> bool:
        """Nobody answers."""
        return True


class PointerWorker:
    """A worker that serves what the pointer names; `failing` versions do not pass or not serve."""

    def __init__(self, root: Path, family: str = FAMILY) -> None:
        self.root = root
        self.family = family
        self.incarnation = 1
        self.failing_self_test: set[str] = set()
        self.failing_service: set[str] = set()
        self.is_away = False
        self.died = 0
        self.killers = 0
        self.shadow: control.ShadowStatus | None = None
        self.shadow_grows_by = 100
        self.is_mirrored = asyncio.Event()
        self.asked: list[control.Request] = []
        self.read_pointer()

    def read_pointer(self) -> None:
        """What a start of the worker does."""
        serving = slots.serving(self.root, self.family)
        self.served = slots.read(serving) if serving else None
        self.digest = slots.manifest_digest(serving) if serving else None

    async def ask(self, request: control.Request, _timeout_s: float) -> control.Response:
        """Answer as the real one does."""
        self.asked.append(request)
        if self.is_away:
            raise WorkerUnavailable("away")
        if isinstance(request, control.SelfTest):
            slot = slots.slot(self.root, self.family, request.slot)
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
        if isinstance(request, control.Shadow):
            self._shadow(request)
            return control.Done(family=self._family())
        self.read_pointer()
        return control.Done(family=self._family())

    async def status(self) -> control.StatusAnswer:
        """What serves."""
        if self.is_away:
            raise WorkerUnavailable("away")
        if self.shadow is not None:
            rows = self.shadow.rows + self.shadow_grows_by
            self.shadow = msgspec.structs.replace(self.shadow, rows=rows)
        return control.StatusAnswer(
            incarnation=f"{self.incarnation:016x}", families={self.family: self._family()}
        )

    def deaths(self) -> int:
        """How often it died."""
        return self.died

    async def death(self, timeout_s: float) -> None:
        """Nobody tells of deaths here."""
        await asyncio.sleep(timeout_s)

    def _family(self) -> control.FamilyStatus:
        if self.served is None:
            return control.FamilyStatus()
        is_ready = self.served.version not in self.failing_service
        return control.FamilyStatus(
            digest=self.digest,
            version=self.served.version,
            ready=is_ready,
            killers=self.killers,
            shadow=self.shadow,
        )

    def _shadow(self, request: control.Shadow) -> None:
        if request.share == 0:
            self.shadow = None
            return
        slot = slots.slot(self.root, FAMILY, request.slot)
        self.shadow = control.ShadowStatus(digest=slots.manifest_digest(slot))
        self.is_mirrored.set()


class WorkerOfFamilies:
    """A worker that serves several families, each as a `PointerWorker` does."""

    def __init__(self, *workers: PointerWorker) -> None:
        self._workers = {each.family: each for each in workers}

    async def ask(self, request: control.Request, timeout_s: float) -> control.Response:
        """Ask the one whose family it is."""
        assert isinstance(request, control.SelfTest | control.Swap | control.Unload)
        return await self._workers[request.family].ask(request, timeout_s)

    async def status(self) -> control.StatusAnswer:
        """What all serve."""
        answers = [await each.status() for each in self._workers.values()]
        found = {name: each for answer in answers for name, each in answer.families.items()}
        return control.StatusAnswer(incarnation="1" * 16, families=found)

    def deaths(self) -> int:
        """It never dies."""
        return 0


class Device:
    """The deployment part of a device, over a folder; made anew it is a device after a restart."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "slots"
        self.line = Line()
        self.worker = PointerWorker(self.root)
        self.workers: Worker = self.worker
        self.detected: list[ShoalError] = []
        self.states: list[DeploymentState] = []
        self.children = Children(s_max=60)
        self.crash_in: DeploymentState | None = None
        path = folder / "state.db"
        if not path.exists():
            state_schema.prepare(path)
        self.state = State.open(path)
        OPENED.append(self.state)
        self.store = ChunkStore(folder / "chunks", reserve_bytes=0, sync_bytes=CHUNK_BYTES_MAX)
        self.permission = Permission(None)
        self.offered = Capabilities(runtime="test", operations={})
        self.judge: Judge = lambda _ordered, _wanted, _is_urgent: self.permission
        self.crashed = asyncio.Event()
        self._changes = asyncio.Event()

    def start(self) -> None:
        """Start as the core does."""
        self.downloads = Downloads(
            self.store,
            self.line,
            device="d1",
            window=8,
            stall_s=5.0,
            detect=self.detected.append,
        )
        self._arriving: set[asyncio.Task[None]] = set()

        def deliver(digest: str, data: bytes) -> None:
            self._arriving.add(asyncio.create_task(self.downloads.received(digest, data)))

        self.line.deliver = deliver
        steps = Steps(
            self.root,
            state=self.state,
            fetching=Fetching(
                self.root,
                self.store,
                self.downloads,
                SlotPatching(
                    self.root,
                    store=self.store,
                    children=self.children,
                    stall_s=0.1,
                    detect=self.detected.append,
                ),
                self.judge,
                offered=lambda: self.offered,
                recheck_s=0.01,
            ),
            worker=self.workers,
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

    async def ended(self, generation: int, family: str = FAMILY) -> lifecycle.Record:
        """Wait until the family's deployment with this generation has ended."""
        async with asyncio.timeout(10):
            while not self._has_ended(generation, family):
                await self._changes.wait()
                self._changes.clear()
        return self.updater.records[family]

    def _has_ended(self, generation: int, family: str) -> bool:
        record = self.updater.records.get(family)
        return bool(record and record.generation >= generation and not lifecycle.is_open(record))

    async def reaches(self, state: DeploymentState) -> None:
        """Wait until a deployment was in this state."""
        async with asyncio.timeout(10):
            while state not in self.states:
                await self._changes.wait()
                self._changes.clear()

    async def waits(self) -> None:
        """Wait until a deployment says that it waits."""
        async with asyncio.timeout(10):
            while not any(record.waits_for for record in self.updater.records.values()):
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
