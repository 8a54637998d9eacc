"""Carries deployments out: persists the next state, does its work, asks the lifecycle what follows.

Families go side by side, each with one deployment at a time. An order that comes meanwhile waits in
memory only: the generation it brings is not acknowledged before its record is on disk, so a hello
after a power cut brings it again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from agent import events, log
from agent.deployment import lifecycle, repair, slots
from agent.deployment.lifecycle import Event, Record
from agent.deployment.steps import Notes
from firmware_bundles.errors import (
    BundleError,
    DeploymentLooping,
    DeploymentSuperseded,
    DeviceError,
    SelfTestFailed,
    ShoalError,
    SlotBroken,
    StateDamaged,
)
from firmware_bundles.limits import FAMILIES_PER_DEVICE_MAX, TEXT_CHARS_MAX
from firmware_bundles.wire.messages import Assignment, DeploymentState, Fault, Order, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.deployment.seals import Mark
    from agent.deployment.steps import Steps
    from agent.store.state import State

_RETRY_S_MIN: Final = 0.5
_RETRY_S_MAX: Final = 30.0
# A worker that refuses so often to go back will not be asked again: a newer generation may mend it.
_REFUSALS_MAX: Final = 3
_NOTED_EVERY_S: Final = 60.0
# States whose work is ended at once where the deployment is; the others end by themselves, soon.
_INTERRUPTIBLE: Final = frozenset(
    {DeploymentState.FETCHING, DeploymentState.SHADOWING, DeploymentState.PROBATION}
)


class Updater:
    """Runs one task a family while there is something to do."""

    def __init__(
        self,
        steps: Steps,
        state: State,
        *,
        on_change: Callable[[Record], None],
        detect: Callable[[ShoalError], None],
    ) -> None:
        self._steps = steps
        self._state = state
        self._on_change = on_change
        self._detect = detect
        self._records: dict[str, Record] = {}
        self._pending: dict[str, Order] = {}
        self._resumed: dict[str, Record] = {}  # not stored yet: the disk may be full
        self._cancelled: dict[str, Fault] = {}
        self._interrupts: dict[str, asyncio.Event] = {}
        self._following: set[asyncio.Task[None]] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watched: dict[str, float] = {}
        self._lost: frozenset[str] = frozenset()

    @property
    def records(self) -> dict[str, Record]:
        """The newest deployment of each family."""
        return dict(self._records)

    def is_open(self, family: str) -> bool:
        """Return whether a deployment of this family is under way."""
        record = self._records.get(family)
        return record is not None and lifecycle.is_open(record)

    def generations(self) -> dict[str, int]:
        """Return the newest generation whose deployment has begun, by family.

        One less where nothing of it is left: the same order is then taken once more.
        """
        return {
            family: record.generation - (family in self._lost)
            for family, record in self._records.items()
        }

    async def checked_generations(self) -> dict[str, int]:
        """Return the same for a hello, after a look at what lies in the slots."""
        self._lost = await asyncio.to_thread(repair.lost, self._steps.root, self.records)
        for family in self._lost:
            log.event("model-lost", family=family)
        return self.generations()

    def known_generations(self) -> dict[str, int]:
        """Return the same with the orders that wait: nothing older may be admitted."""
        waiting = {family: order.generation for family, order in self._pending.items()}
        return self.generations() | waiting

    def start(self) -> None:
        """Mend what lies on disk, and go on with what a stop interrupted."""
        self._records = self._state.records()
        slots.sweep(self._steps.root)
        for family in slots.families(self._steps.root):
            self._mend(family)
        for family, record in self._records.items():
            if not lifecycle.is_open(record):
                continue
            resumed = lifecycle.resume(record)
            log.event(
                "deployment-resumed",
                family=family,
                state=resumed.state,
                attempts=resumed.attempts,
            )
            if resumed != record:
                self._resumed[family] = _guarded(resumed)
            self._wake(family)
        self._clear_chunks()

    async def stop(self) -> None:
        """Stop in order: what is open goes on at the next start, and it is nobody's fault."""
        tasks = [*self._tasks.values(), *self._following]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for family, record in self._records.items():
            if not lifecycle.is_open(record):
                continue
            try:
                self._state.save(
                    lifecycle.suspend(record, elapsed_s=self._watched.get(family, 0.0))
                )
            except StateDamaged as error:  # the next start counts this stop, no more
                log.event("state-damaged", family=family, reason=error.message)

    async def end(self) -> None:
        """Stop for good: this device is retired. What was open has failed."""
        await self.stop()
        self._state.end_deployments()
        self._pending.clear()
        self._records = self._state.records()

    def offer(self, assignment: Assignment) -> None:
        """Take the admitted orders that are newer than what this device has."""
        if self._state.is_damaged():
            if assignment.orders:
                self._detect(StateDamaged("an assignment was not taken: the state was lost"))
            return
        for order in assignment.orders:
            known = self.known_generations()
            if order.generation <= known.get(order.family, 0):
                continue
            if order.family not in known and len(known) >= FAMILIES_PER_DEVICE_MAX:
                self._detect(DeviceError(f"there is no room for one more family, {order.family}"))
                continue
            log.event(
                "order-taken",
                family=order.family,
                generation=order.generation,
                model=order.model.path,
                rollout=order.rollout,
                arm=order.arm,
            )
            self._pending[order.family] = order
            self._interrupt(order.family).set()
            self._wake(order.family)

    async def roll_back(self, family: str, fault: Fault) -> Record:
        """Go back to the other slot because somebody at this device says so; return the end.

        An open deployment is cancelled at its next safe point; where none is open, or it was
        committed meanwhile, the other slot serves again. Raises SlotBroken where that cannot be,
        StateDamaged.
        """
        record = self._records.get(family)
        if record is None:
            raise SlotBroken(f"there is no deployment of {family} here that could be rolled back")
        generation = record.generation
        if lifecycle.is_open(record):
            self._cancelled[family] = fault
            self._interrupt(family).set()
            await self._ended(family)
            record = self._records[family]
            if record.state is not DeploymentState.COMMITTED or record.generation != generation:
                return record
        self._persist(repair.reverted(self._steps.root, record, fault))
        self._wake(family)
        await self._ended(family)
        return self._records[family]

    def mark(self, family: str, name: str, mark: Mark) -> None:
        """Mark a slot because somebody here says so. Raises SlotBroken, SlotUnwritable."""
        slots.mark(slots.slot(self._steps.root, family, name), mark)
        self._state.mark_slot(family, name, mark)
        log.event("slot-marked", family=family, slot=name, mark=mark)

    async def _ended(self, family: str) -> None:
        """Wait until there is nothing to do for a family."""
        task = self._tasks.get(family)
        if task is not None:
            await asyncio.shield(asyncio.gather(task, return_exceptions=True))

    def _interrupt(self, family: str) -> asyncio.Event:
        return self._interrupts.setdefault(family, asyncio.Event())

    def _wake(self, family: str) -> None:
        task = self._tasks.get(family)
        if task is None or task.done():
            self._tasks[family] = asyncio.create_task(self._run(family), name=f"family {family}")

    async def _run(self, family: str) -> None:
        retry_s = _RETRY_S_MIN
        while True:
            try:
                if not await self._go_on(family):
                    return
                retry_s = _RETRY_S_MIN
            except StateDamaged as error:
                log.event("state-damaged", family=family, reason=error.message)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _RETRY_S_MAX)

    async def _go_on(self, family: str) -> bool:
        """Take one step; return whether there may be more to do."""
        if resumed := self._resumed.get(family):
            self._persist(resumed)
            del self._resumed[family]
            return True
        record = self._records.get(family)
        if record is None or not lifecycle.is_open(record):
            order = self._pending.get(family)
            if order is None:
                return False
            self._begin(order)
            return True
        if record.state in lifecycle.ENDABLE and (ending := self._ending(family)):
            self._persist(_guarded(lifecycle.advance(record, *ending)))
            return True
        event, fault = await self._work(record)
        record = self._records[family]  # the work may have noted the time that passed
        if event is Event.DONE and record.state in lifecycle.ENDABLE:
            event, fault = self._ending(family) or (event, fault)
        self._persist(_guarded(lifecycle.advance(record, event, fault)))
        return True

    def _ending(self, family: str) -> tuple[Event, Fault] | None:
        """Return what ends this family's deployment at its next safe point, if anything does."""
        if fault := self._cancelled.get(family):
            return Event.CANCELLED, fault
        if order := self._pending.get(family):
            return Event.SUPERSEDED, _superseded(order)
        return None

    def _begin(self, order: Order) -> None:
        root = self._steps.root
        serving = slots.serving(root, order.family)
        record = lifecycle.begin(
            order,
            slot=slots.other(root, order.family).name,
            previous=serving.name if serving else None,
        )
        self._persist(record)
        del self._pending[order.family]
        self._interrupt(order.family).clear()

    async def _work(self, record: Record) -> tuple[Event, Fault | None]:
        """Do the work of a state, until it is done, fails, or something ends the deployment."""
        work = asyncio.ensure_future(self._attempt(record))
        interrupt = asyncio.ensure_future(self._interrupt(record.family).wait())
        try:
            if record.state in _INTERRUPTIBLE:
                await asyncio.wait({work, interrupt}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done() and (ending := self._ending(record.family)):
                    return ending
            return await work
        finally:
            work.cancel()
            interrupt.cancel()
            await asyncio.gather(work, interrupt, return_exceptions=True)

    async def _attempt(self, record: Record) -> tuple[Event, Fault | None]:
        """Do the work; in COMMITTING and ROLLING_BACK as often as it takes."""
        refusals = 0
        retry_s = _RETRY_S_MIN
        while True:
            try:
                return await self._step(record), None
            except StateDamaged:
                raise
            except Exception as error:  # noqa: BLE001 - no fault of a step may leave it hanging
                fault = _fault(error)
                log.event(
                    "step-failed",
                    family=record.family,
                    state=record.state,
                    code=fault.code,
                    reason=fault.message,
                )
                if record.state not in lifecycle.RETRYING:
                    return Event.ERROR, fault
                refusals += isinstance(error, SlotBroken | SelfTestFailed | BundleError)
                if refusals >= _REFUSALS_MAX and isinstance(error, ShoalError):
                    self._detect(error)
                    return Event.DONE, None
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _RETRY_S_MAX)

    async def _step(self, record: Record) -> Event:
        steps = self._steps
        match record.state:
            case DeploymentState.FETCHING:
                return await steps.fetch(record, self._notes(record.family))
            case DeploymentState.STAGING:
                return await steps.stage(record)
            case DeploymentState.SELF_TESTING:
                return await steps.self_test(record)
            case DeploymentState.SHADOWING:
                return await steps.shadow(record)
            case DeploymentState.SWITCHING:
                return await steps.switch(record)
            case DeploymentState.PROBATION:
                return await steps.watch(record, lambda s: self._note(record.family, s))
            case DeploymentState.COMMITTING:
                return await steps.commit(record)
            case DeploymentState.ROLLING_BACK:
                return await steps.roll_back(record)
            case _:
                raise ValueError(f"{record.state} has no work")

    def _notes(self, family: str) -> Notes:
        return Notes(
            wait=lambda what: self._note_wait(family, what),
            transfer=lambda transfer: self._note_transfer(family, transfer),
        )

    def _note_transfer(self, family: str, transfer: Transfer) -> None:
        """Keep what came over the line; it is persisted with the next state."""
        self._records[family] = msgspec.structs.replace(self._records[family], transfer=transfer)

    def _note(self, family: str, elapsed_s: float) -> None:
        """Keep the time of a probation, so that a restart does not begin it anew."""
        self._watched[family] = elapsed_s
        if elapsed_s - self._records[family].elapsed_s < _NOTED_EVERY_S:
            return
        record = msgspec.structs.replace(self._records[family], elapsed_s=elapsed_s)
        self._state.save(record)
        self._records[family] = record

    def _note_wait(self, family: str, what: str | None) -> None:
        """Keep and tell what an update waits for, where that changed."""
        what = what and what[:TEXT_CHARS_MAX]
        if self._records[family].waits_for != what:
            record = msgspec.structs.replace(self._records[family], waits_for=what)
            self._state.save(record)
            self._records[family] = record
            self._on_change(record)

    def _persist(self, record: Record) -> None:
        self._state.save(record)
        self._records[record.family] = record
        self._watched.pop(record.family, None)
        self._lost -= {record.family}
        log.event(
            events.of_state(record.state),
            family=record.family,
            generation=record.generation,
            version=record.model.path.split("/")[1],
            slot=record.slot,
            step=record.persist_count,
            attempts=record.attempts or None,
            fault=record.fault.code if record.fault else None,
            reason=record.fault.message if record.fault else None,
        )
        if not lifecycle.is_open(record):
            self._cancelled.pop(record.family, None)
        self._clear_chunks()
        self._on_change(record)

    def _clear_chunks(self) -> None:
        """Forget what no deployment needs; a stop may have come between its end and this."""
        if not any(lifecycle.is_open(each) for each in self._records.values()):
            self._steps.clear_chunks()

    def _mend(self, family: str) -> None:
        """Mend a pointer; where it changed, the worker, which started meanwhile, follows."""
        record = self._records.get(family)
        try:
            is_mended = repair.mend(self._steps.root, family, record, self._detect)
        except DeviceError as error:  # the disk takes nothing: the worker serves what it can
            self._detect(error)
            return
        if is_mended:
            log.event("pointer-mended", family=family)
            following = asyncio.create_task(self._follow(family))
            self._following.add(following)
            following.add_done_callback(self._following.discard)

    async def _follow(self, family: str) -> None:
        try:
            await self._steps.serve_again(family)
        except ShoalError as error:
            self._detect(error)


def _guarded(record: Record) -> Record:
    if not lifecycle.is_looping(record):
        return record
    error = DeploymentLooping(f"the deployment went through {record.persist_count} steps")
    return lifecycle.advance(record, Event.LOOP_DETECTED, _fault(error))


def _superseded(order: Order) -> Fault:
    return Fault(
        code=DeploymentSuperseded.code,
        message=f"generation {order.generation} came and takes its place",
    )


def _fault(error: Exception) -> Fault:
    if isinstance(error, ShoalError):
        return Fault(code=error.code, message=error.message[:TEXT_CHARS_MAX])
    message = f"the step failed: {error!r}"
    return Fault(code=DeviceError.code, message=message[:TEXT_CHARS_MAX])
