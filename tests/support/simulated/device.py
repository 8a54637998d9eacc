"""One simulated device: the parts joined, and messages routed, as `agent.core` does it.

It speaks the real protocol over a real broker, without interpreter or slots. Of the agent's own
code it uses what needs no process of its own: hellos, the collection of the repository, downloads,
the table of a deployment's life, verification, recorder, buffer and forwarder.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent import log
from agent.config import Config
from agent.deployment.collection import Collection
from agent.deployment.downloads import Downloads
from agent.deployment.lifecycle import Record
from agent.hellos import Hellos
from firmware_bundles import chunks
from firmware_bundles.errors import ShoalError, TransferError, TrustError
from firmware_bundles.limits import CHUNK_WINDOW_DEFAULT
from firmware_bundles.trust.floors import Mark
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import Assignment, DeploymentState
from support.simulated.behaviour import Behaviour
from support.simulated.contents import Contents, Library
from support.simulated.deployments import Deployments
from support.simulated.durable import Durable
from support.simulated.enrolling import Member
from support.simulated.line import Ends, Line
from support.simulated.notary import Notary
from support.simulated.outbox import Outbox
from support.simulated.restless import Restless
from support.simulated.statements import Statements
from support.simulated.traffic import Traffic

_ATTEMPTS_MAX: Final = 3
_RECONNECT_S: Final = (0.3, 2.0)
_ENDED: Final = frozenset(
    {DeploymentState.COMMITTED, DeploymentState.ROLLED_BACK, DeploymentState.FAILED}
)


class Shared(NamedTuple):
    """What all devices of a process have in common. With a `spool` predictions go to its disk."""

    config: Config
    notary: Notary
    library: Library
    seed: int
    spool: Path | None = None


class SimulatedDevice:
    """A device from its enrolment on; `start` and `crash` may alternate."""

    def __init__(self, member: Member, number: int, behaviour: Behaviour, shared: Shared) -> None:
        self.member = member
        self.number = number
        self.behaviour = behaviour
        self.traffic = Traffic(number, behaviour)
        self.refused: dict[str, int] = {}
        self._shared = shared
        self._rng = random.Random(shared.seed * 1_000_003 + number)
        self._marks: dict[str, Mark] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._arriving: set[asyncio.Task[None]] = set()
        self._is_held = False
        self._wire_bytes = 0
        self._counter = 0
        self._contents = Contents(shared.library)
        self._begin()

    def _begin(self) -> None:
        """Make what lives as long as a process of the agent does."""
        shared, member = self._shared, self.member
        self.incarnation = secrets.token_hex(8)
        self.line = Line(member.device, member.broker, member.tls, Ends(self._route, self._changed))
        self._downloads = Downloads(
            self._contents,  # type: ignore[arg-type] # all of a chunk store that it asks for
            self.line,
            device=member.device,
            window=CHUNK_WINDOW_DEFAULT,
            stall_s=shared.config.chunk_stall_s,
            detect=self._detect,
        )
        self._collection = Collection(self.line, self._downloads, self._detect)
        self._hellos = Hellos(member.device, self.incarnation, shared.config)
        self.deployments = Deployments(
            self.behaviour, self._rng, self._contents, self._downloads, self._advanced
        )
        self.statements = Statements(member, self.incarnation, self._counter)
        self._envelopes: asyncio.Queue[bytes] = asyncio.Queue()
        restless = Restless(self.line.publish, self._rng)
        send = restless if self.behaviour.is_restless else self.line.publish
        self._hear = restless.hear if self.behaviour.is_restless else _at_once
        self.outbox = Outbox(member.device, member.secret, send)
        self.durable: Durable | None = None
        if shared.spool is not None:
            folder = shared.spool / member.device
            Durable.prepare(folder, shared.spool / "template.db")
            self.durable = Durable(folder, member, self.traffic, self.incarnation, send)

    @property
    def wire_bytes(self) -> int:
        """What TCP carried for this device since it began."""
        return self._wire_bytes + self.line.wire_bytes

    @property
    def waiting(self) -> int:
        """Segments that nobody acknowledged."""
        return self.outbox.waiting + (self.durable.waiting if self.durable else 0)

    @property
    def record(self) -> Record | None:
        """The newest deployment of the one family."""
        family = next(iter(self.deployments.families.values()), None)
        return family.record if family else None

    def start(self, within_s: float) -> None:
        """Let the device live; it connects at some time of a span."""
        self._spawn(self._stay_connected(self._rng.uniform(0, within_s)))
        self._spawn(self._verify())
        self._spawn(self._downloads.watch())
        self._spawn(self._hellos.run(self._generations, self.line.publish))
        if not self.behaviour.is_silent:
            self._spawn(self.statements.run(self.deployments, self.line.publish))
        if self.durable is not None:
            self._spawn(self.durable.run())
        self._spawn(self._suffer())

    def tick(self) -> None:
        """Do what is done now and then."""
        self.line.misc()
        self.outbox.pump()

    async def stop(self) -> None:
        """Leave in order: all that was recorded is sealed first."""
        if self.durable is not None:
            self.durable.stop()
        self.line.leave()
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        self.deployments.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self, *, is_held: bool) -> None:
        """Take the network away, or give it back."""
        self._is_held = is_held
        if is_held:
            self.line.drop()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _stay_connected(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while True:
            if not self.line.is_up and not self._is_held:
                await self.line.connect()
            await asyncio.sleep(self._rng.uniform(*_RECONNECT_S))

    async def _suffer(self) -> None:
        """Go through the outages of the behaviour."""
        began = asyncio.get_running_loop().time()
        for outage in self.behaviour.outages:
            await asyncio.sleep(began + outage.after_s - asyncio.get_running_loop().time())
            self.hold(is_held=True)
            await asyncio.sleep(outage.for_s)
            self.hold(is_held=False)

    def _changed(self, is_up: bool) -> None:  # noqa: FBT001 - the one fact of a callback
        self._collection.connection_changed(is_up=is_up)
        self._downloads.connection_changed(is_up=is_up)
        self.outbox.connection_changed()
        if self.durable is not None:
            self.durable.connection_changed(is_up)
        if is_up:
            self._hellos.ask()
            self.statements.ask()

    def _route(self, topic: str, payload: bytes) -> None:
        try:
            self._take(topic, payload)
        except ShoalError as error:
            self._detect(error)

    def _take(self, topic: str, payload: bytes) -> None:
        if digest := topics.parse_chunk(topic):
            self._take_chunk(digest, payload)
        elif topic == topics.REPOSITORY_HINT:
            self._collection.take_hint(payload)
        elif name := topics.parse_repository_file(topic):
            self._collection.take_file(name, payload)
        else:
            match topics.parse_down(topic, self.member.device):
                case topics.Down.ASSIGNMENT:
                    self._envelopes.put_nowait(payload)
                case topics.Down.ACKNOWLEDGEMENT:
                    sink = self.durable or self.outbox
                    self._hear(sink.acknowledged, payload)
                case topics.Down.CHUNK:
                    self._take_chunk(chunks.digest_of(payload), payload)

    def _take_chunk(self, digest: str, payload: bytes) -> None:
        arriving = asyncio.create_task(self._downloads.received(digest, payload))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)

    async def _generations(self) -> dict[str, int]:
        return dict(self.deployments.generations())

    async def _verify(self) -> None:
        while True:
            envelope = await self._envelopes.get()
            try:
                self._admitted(await self._judge(envelope))
            except ShoalError as error:
                self._detect(error)
                if isinstance(error, TransferError):
                    self._hellos.ask_later()

    async def _judge(self, envelope: bytes) -> Assignment:
        """Verify; files that are on their way are waited for, refused ones collected anew."""
        notary = self._shared.notary
        for attempt in range(1, _ATTEMPTS_MAX + 1):
            await self._collection.whole()
            try:
                found = notary.repository(self.member.root, self._collection.files, self._marks)
                self._marks |= found.marks
                generations = self.deployments.generations()
                return notary.admit(
                    found, envelope, self.member.device, generations, self._hellos.nonce
                )
            except (TransferError, TrustError) as error:
                if attempt == _ATTEMPTS_MAX:
                    raise
                if isinstance(error, TrustError):
                    self._collection.drop()
                else:
                    await self._collection.change()
        raise AssertionError("the loop returns or raises")

    def _admitted(self, assignment: Assignment) -> None:
        self._hellos.answered(assignment.nonce)
        self.deployments.offer(assignment)

    def _advanced(self, record: Record) -> None:
        if record.state in _ENDED or record.state is DeploymentState.PROBATION:
            self.statements.ask()
        if record.state in _ENDED:
            self._hellos.ask()

    def _detect(self, error: ShoalError) -> None:
        self.refused[error.code] = self.refused.get(error.code, 0) + 1
        with suppress(OSError):
            log.event("detected", device=self.member.device, code=error.code, why=error.message)


def _at_once(take: Any, payload: bytes) -> None:  # noqa: ANN401 - a callback
    take(payload)
