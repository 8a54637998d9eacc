"""The core of a device: puts the parts together, and routes what the broker says. Nothing else.

Only light modules are imported here: what is heavy runs in children (`task`) or in the worker. The
worker starts first and serves by itself, whatever else is wrong with this device.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from agent import identity as identities
from agent import inventory, log
from agent.children import Children
from agent.clock import Clock
from agent.connection import Connection, Message, tls_context
from agent.deployment import conditions, shadowing
from agent.deployment.chunk_store import ChunkStore
from agent.deployment.collection import Collection
from agent.deployment.downloads import Downloads
from agent.deployment.fetching import Fetching
from agent.deployment.mirrors import Mirrors
from agent.deployment.oversight import Oversight
from agent.deployment.patching import SlotPatching
from agent.deployment.steps import Steps
from agent.deployment.updater import Updater
from agent.deployment.verification import Known, Verification
from agent.hellos import Hellos
from agent.inference.worker_client import WorkerClient
from agent.leaving import Leaving
from agent.local_actions import LocalActions
from agent.local_control import SOCKET_NAME, LocalControl
from agent.metering import Meter
from agent.notify import Notifier
from agent.renewal import Renewal
from agent.reports import DETECTION_PAUSE_S, Reports
from agent.store import damage
from agent.store.state import State
from agent.task_messages import Prepared, PrepareState
from agent.telemetry.allowance import Allowance, UploadLimits
from agent.telemetry.forwarder import Forwarder
from firmware_bundles import chunks
from firmware_bundles.errors import (
    ConfigInvalid,
    DeviceError,
    NotEnrolled,
    ShoalError,
    StateDamaged,
    TaskFailed,
    TransferError,
)
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import DeploymentState, Erasure, Uploading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.config import Config
    from agent.deployment.conditions import Permission
    from agent.deployment.lifecycle import Record
    from agent.identity import Identity
    from agent.store.usage import Usage
    from firmware_bundles.wire.messages import Assignment, Conditions

_STATE_RETRY_S: Final = 10.0
_REPORTED: Final = frozenset(
    {
        DeploymentState.PROBATION,
        DeploymentState.COMMITTED,
        DeploymentState.ROLLED_BACK,
        DeploymentState.FAILED,
    }
)


class Core:
    """The parts, once the state is open."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        state: State,
        children: Children,
        worker: WorkerClient,
        usage: Usage,
        notifier: Notifier,
    ) -> None:
        self._identity, self._notifier, self._worker = identity, notifier, worker
        self._config = config
        self._state = state
        self._clock = clock = Clock(state.time_floor())
        incarnation = secrets.token_hex(8)
        slots_root = config.state_dir / "slots"
        self._meter = meter = Meter(usage, clock, config.metered_links.split())
        self._connection = connection = Connection(
            identity,
            config,
            clock=clock,
            on_message=self._route,
            on_change=self._connection_changed,
            on_sent=meter.sent,
        )
        self._downloads, fetching = _downloads(
            config, identity, connection, children, meter, self._detect
        )
        steps = Steps(
            slots_root,
            state=state,
            fetching=fetching,
            worker=worker,
            clock=clock,
            patience_s=config.worker_patience_s,
            detect=self._detect,
        )
        self._updater = Updater(steps, state, on_change=self._changed, detect=self._detect)
        self._leaving = Leaving(config.state_dir, state, worker, clock)
        self._hellos = Hellos(identity.device, incarnation, config, state_dir=config.state_dir)
        self._reports = Reports(
            identity,
            incarnation=incarnation,
            report_s=config.report_s,
            state=state,
            children=children,
            worker=worker,
            clock=clock,
            slots_root=slots_root,
        )
        self._collection = Collection(connection, self._downloads, self._detect)
        self._verification = self._verifying(identity, children)
        self._forwarder = Forwarder(
            config.state_dir / "spool" / "buffer.db",
            identity.device,
            identity.telemetry_secret,
            connection.publish,
            in_flight_max=config.telemetry_in_flight_max,
            retry_s=config.telemetry_retry_s,
            detect=self._detect,
            allowance=self._allowance(config, meter),
        )
        actions = LocalActions(identity, self._updater, state, children, slots_root)
        self._local = LocalControl(config.run_dir / SOCKET_NAME, actions)
        self._renewal = Renewal(config, children, clock)
        self._arriving: set[asyncio.Task[None]] = set()
        log.event("started", device=identity.device, incarnation=incarnation)

    def _allowance(self, config: Config, meter: Meter) -> Allowance:
        return Allowance(
            self._upload_limits,
            meter.telemetry_sent_today,
            lambda: config.samples_on_metered or not meter.is_metered(),
        )

    def _upload_limits(self) -> UploadLimits:
        """Return the device's own limits, or those of its families' orders if they are smaller."""
        days = [self._config.telemetry_bytes_per_day_max]
        for record in self._updater.records.values():
            upload = record.policy.upload or Uploading()
            days.append(upload.bytes_per_day_max)
        smallest = min((day for day in days if day is not None), default=None)
        return UploadLimits(self._config.telemetry_bytes_per_s_max, smallest)

    def _verifying(self, identity: Identity, children: Children) -> Verification:
        return Verification(
            identity,
            state=self._state,
            children=children,
            clock=self._clock,
            collection=self._collection,
            known=lambda: Known(self._updater.known_generations(), self._hellos.nonce),
            on_assignment=self._admitted,
            detect=self._refused,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Run all parts until `stopping` is set, then stop in order."""
        if not self._leaving.is_open:
            self._updater.start()
        await self._local.start()
        self._connection.start()
        self._notifier.watch(self._connection.fault)
        parts = [
            self._verification.run(),
            self._downloads.watch(),
            self._hellos.run(self._updater.checked_generations, self._connection.publish),
            self._reports.run(lambda: self._updater.records, self._connection.publish),
            self._forwarder.run(stopping),
            self._renewal.run(self._connection.renew),
            self._meter.run(),
            self._reports.energy.run(),
            Oversight(self._worker, self._updater, self._detect).run(),
            self._leaving.run(
                end_deployments=self._updater.end, report=self._reports.ask, leave=stopping.set
            ),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        ended = asyncio.create_task(stopping.wait())
        try:
            await _first_failure(tasks, ended)
        finally:
            ended.cancel()
            await self._local.close()
            await self._updater.stop()
            await self._collection.stop()
            await self._connection.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *self._arriving, return_exceptions=True)
            self._meter.flush()

    def _route(self, message: Message) -> None:
        """Hand a message to the part that reads it; what nobody can read is logged and dropped."""
        self._meter.received(message.topic, message.payload)
        try:
            self._route_unguarded(message)
        except ShoalError as error:
            log.event("message-refused", topic=message.topic[:120], code=error.code)
            self._detect(error)

    def _route_unguarded(self, message: Message) -> None:
        topic, payload = message
        if digest := topics.parse_chunk(topic):
            self._take_chunk(digest, payload)
        elif topic == topics.REPOSITORY_HINT:
            self._collection.take_hint(payload)
        elif name := topics.parse_repository_file(topic):
            self._collection.take_file(name, payload)
        else:
            match topics.parse_down(topic, self._identity.device):
                case topics.Down.ASSIGNMENT:
                    self._verification.take_envelope(payload)
                case topics.Down.ACKNOWLEDGEMENT:
                    self._forwarder.acknowledged(payload)
                case topics.Down.CHUNK:
                    self._take_chunk(chunks.digest_of(payload), payload)
                case _:
                    log.event("message-ignored", topic=topic[:120])

    def _take_chunk(self, digest: str, payload: bytes) -> None:
        arriving = asyncio.create_task(self._downloads.received(digest, payload))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)

    def _connection_changed(self, is_up: bool) -> None:  # noqa: FBT001 - the one fact of a callback
        self._collection.connection_changed(is_up=is_up)
        self._downloads.connection_changed(is_up=is_up)
        self._forwarder.connection_changed(is_up)
        self._notifier.status("connected to the broker" if is_up else "waiting for the broker")
        if is_up:
            self._hellos.ask()
            self._reports.ask()

    def _admitted(self, assignment: Assignment) -> None:
        log.event("assignment", orders=len(assignment.orders), is_push=assignment.nonce is None)
        self._hellos.answered(assignment.nonce)
        if isinstance(assignment.erase, Erasure):
            self._leaving.take(assignment.erase)
        elif not self._leaving.is_open:
            self._updater.offer(assignment)

    def _refused(self, error: ShoalError) -> None:
        """Count what was not admitted; where it may have been a good one, ask for it again."""
        self._detect(error)
        if isinstance(error, TransferError | TaskFailed):
            self._hellos.ask_later()

    def _changed(self, record: Record) -> None:
        is_held = record.state is DeploymentState.SHADOWING and shadowing.is_held(record)
        if record.state in _REPORTED or record.waits_for or is_held:
            self._reports.ask()
        if record.state in _REPORTED - {DeploymentState.PROBATION}:
            self._hellos.ask()

    def _detect(self, error: ShoalError) -> None:
        """Count a refusal for the reports; it must never stop what detected it."""
        log.event("detected", code=error.code, reason=error.message)
        try:
            self._state.detect(error.code, error.message, self._clock.now())
        except StateDamaged as damaged:
            log.event("state-damaged", reason=damaged.message)
        self._reports.ask(DETECTION_PAUSE_S)


def _downloads(
    config: Config,
    identity: Identity,
    session: Connection,
    children: Children,
    meter: Meter,
    detect: Callable[[ShoalError], None],
) -> tuple[Downloads, Fetching]:
    """Return what fetches chunks, and what makes a release's files of them."""
    store = ChunkStore(
        config.state_dir / "chunks",
        quota_bytes=config.download_bytes_max,
        on_written=meter.wrote,
    )
    mirrors = Mirrors(
        children,
        server=identity.server,
        mirrors=config.mirrors.split(),
        ca=identity.directory / identities.CA,
        on_fetched=meter.fetched,
    )
    downloads = Downloads(
        store,
        session,
        device=identity.device,
        web=mirrors,
        window=config.chunk_window,
        stall_s=config.chunk_stall_s,
        detect=detect,
    )
    root = config.state_dir / "slots"
    patching = SlotPatching(
        root, store=store, children=children, stall_s=config.chunk_stall_s, detect=detect
    )
    judge = _judge(config.conditions(), meter)
    offered = partial(inventory.offered, config.state_dir)
    return downloads, Fetching(root, store, downloads, patching, judge, offered=offered)


def _judge(own: Conditions, meter: Meter) -> Callable[[Conditions, int, bool], Permission]:
    """Return what judges an order's conditions beside the device's own."""

    def judge(ordered: Conditions, wanted_bytes: int, is_urgent: bool) -> Permission:  # noqa: FBT001
        return conditions.judge((own, ordered), meter.facts(), wanted_bytes, is_urgent=is_urgent)

    return judge


async def open_state(path: Path, children: Children) -> State:
    """Open the state; a damaged or lost one is set aside, and marked, so that nothing is activated.

    Keeps trying while the disk takes nothing: the worker serves meanwhile.
    """
    while True:
        try:
            return _opened(path)
        except StateDamaged as error:
            log.event("state-damaged", reason=error.message, hint=error.hint)
            lost = error
        except DeviceError as error:
            log.event("state-not-opened", reason=error.message)
            await asyncio.sleep(_STATE_RETRY_S)
            continue
        try:
            damage.set_aside(path, f"damaged-{secrets.token_hex(4)}")
            await children.run(PrepareState(path=str(path)), Prepared)
            state = State.open(path)
            state.mark_damaged(is_damaged=True)
            state.detect(lost.code, lost.message, Clock().now())
            return state
        except (OSError, DeviceError) as error:
            log.event("state-not-made", reason=str(error))
        await asyncio.sleep(_STATE_RETRY_S)


def _opened(path: Path) -> State:
    """Open the state and read all of it once: what cannot be read is damage, too."""
    state = State.open(path)
    try:
        state.records()
    except StateDamaged:
        state.close()
        raise
    return state


async def load_identity(state_dir: Path, key_file: Path | None = None) -> Identity:
    """Return the identity once it can be used: until then the worker serves, and says so."""
    while True:
        try:
            identity = identities.load(state_dir, key_file)
            if identity.broker.is_tls:
                tls_context(identity, Clock())
        except (NotEnrolled, StateDamaged, ConfigInvalid) as error:
            log.event("identity-damaged", reason=error.message, hint=error.hint or None)
        else:
            return identity
        await asyncio.sleep(_STATE_RETRY_S)


async def _first_failure(tasks: list[asyncio.Task[None]], ended: asyncio.Task[bool]) -> None:
    """Return when `ended` is; raise what ends a part before that, for a part never ends itself."""
    waiting: set[asyncio.Task[None] | asyncio.Task[bool]] = {*tasks, ended}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        for task in tasks:
            if task.done():
                task.result()
