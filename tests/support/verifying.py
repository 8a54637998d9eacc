"""The verifying part of a device: its files, its chunks, its task, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.children import Children
from agent.clock import Clock
from agent.deployment.chunk_store import ChunkStore
from agent.deployment.collection import Collection
from agent.deployment.downloads import Downloads, Line
from agent.deployment.verification import Known, Verification
from agent.identity import Broker, Identity
from agent.store import state_schema
from agent.store.state import State
from firmware_bundles.errors import ShoalError
from firmware_bundles.wire import codec, repository_files, topics
from firmware_bundles.wire.messages import Assignment, RepositoryHint
from support.owners import NOW, Owners

NONCE = "ab" * 16


class _Mute:
    """A session on which nothing is asked of the control plane."""

    def __init__(self, line: Line) -> None:
        self.subscribe, self.unsubscribe = line.subscribe, line.unsubscribe

    def publish(self, topic: str, payload: bytes) -> bool:  # noqa: ARG002 - the session's
        """Say nothing."""
        return False


class Device:
    """The verifying part of a device, on a line that delivers what the owners retain."""

    def __init__(self, folder: Path, owners: Owners, clock: Clock | None = None) -> None:
        self.retained: dict[str, bytes] = {}
        self.admitted: list[Assignment] = []
        self.detected: list[ShoalError] = []
        self.generations: dict[str, int] = {}
        self.subscribed: set[str] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        path = folder / "state.db"
        if not path.exists():
            state_schema.prepare(path)
        self.state = State.open(path)
        self._changed = asyncio.Event()
        self.downloads = Downloads(
            ChunkStore(folder / "chunks"),
            _Mute(self),
            device="dev-1",
            window=8,
            stall_s=30,
            detect=self._detected,
        )
        self.downloads.connection_changed(is_up=True)
        self.collection = Collection(self, self.downloads, self._detected)
        self._children = Children(s_max=60)
        self.verification = Verification(
            Identity(
                folder / "identity", "dev-1", "", Broker("", 1, is_tls=False), b"", owners.root
            ),
            state=self.state,
            children=self._children,
            clock=clock or Clock(floor=NOW),
            collection=self.collection,
            known=lambda: Known(self.generations, NONCE),
            on_assignment=self._admitted,
            detect=self._detected,
        )

    def subscribe(self, filters: Sequence[str]) -> None:
        """Deliver what is retained, soon."""
        self.subscribed |= set(filters)
        for topic in filters:
            if topic in self.retained:
                asyncio.get_running_loop().call_soon(self._deliver_retained, topic)

    def deliver(self, topic: str, payload: bytes) -> None:
        """Hand a message over as the broker does, if its topic is subscribed to."""
        if topic not in self.subscribed:
            return
        try:
            if digest := topics.parse_chunk(topic):
                arriving = asyncio.create_task(self.downloads.received(digest, payload))
                self._arriving.add(arriving)
            else:
                self.collection.take_file(topics.parse_repository_file(topic) or "", payload)
        except ShoalError as error:
            self._detected(error)

    def _deliver_retained(self, topic: str) -> None:
        if topic in self.retained:
            self.deliver(topic, self.retained[topic])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Forget."""
        self.subscribed -= set(filters)

    def publish(self, files: dict[str, bytes], *, hint: bool = True) -> None:
        """Retain files as the control plane does: the hint comes last."""
        self.retained = {}
        indexed = []
        for name, data in files.items():
            topic, travelling = topics.repository_file(name), repository_files.cut(data)
            self.retained[topic] = data
            if travelling is not None:
                indexed.append(name)
                self.retained[topic] = codec.encode(travelling.listing)
                pieces = travelling.pieces
                self.retained |= {topics.chunk(digest): piece for digest, piece in pieces}
        for topic in sorted(self.subscribed & self.retained.keys()):
            self.deliver(topic, self.retained[topic])
        if hint:
            said = RepositoryHint(root=1, files=tuple(sorted(files)), indexed=tuple(indexed))
            self.collection.take_hint(codec.encode(said))

    async def verdict(self, envelope: bytes) -> str:
        """Hand over an envelope; return "admitted" or the code of the refusal."""
        before = len(self.detected)
        await self._judged(envelope, lambda: True)
        return self.detected[-1].code if len(self.detected) > before else "admitted"

    async def admission(self, envelope: bytes) -> None:
        """Hand over an envelope and wait until it is admitted, whatever is refused before."""
        before = len(self.admitted)
        await self._judged(envelope, lambda: len(self.admitted) > before)

    async def _judged(self, envelope: bytes, is_enough: Callable[[], bool]) -> None:
        self.verification.take_envelope(envelope)
        running = asyncio.create_task(self.verification.run())
        try:
            async with asyncio.timeout(60):
                while True:
                    self._changed.clear()
                    await self._changed.wait()
                    if is_enough():
                        return
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def detection(self) -> None:
        """Wait until something was refused."""
        async with asyncio.timeout(60):
            while not self.detected:
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        """Leave nothing running."""
        await self.collection.stop()
        await asyncio.gather(*self._arriving, return_exceptions=True)
        await self._children.stop()
        self.state.close()

    def _admitted(self, assignment: Assignment) -> None:
        self.admitted.append(assignment)
        self._changed.set()

    def _detected(self, error: ShoalError) -> None:
        self.detected.append(error)
        self._changed.set()
