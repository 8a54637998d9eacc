"""Carries out what somebody at this device asks: without network, with or without a running core.

A model that its owners no longer allow is not gone back to: the owners' last word that this device
verified counts, however old it is.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from agent import identity as identities
from agent import local_control, locks, log
from agent.children import Children
from agent.clock import Clock
from agent.deployment import slots
from agent.deployment.chunk_store import ChunkStore
from agent.deployment.seals import Mark
from agent.deployment.steps import Notes, Steps
from agent.deployment.updater import Updater
from agent.inference import control
from agent.inference.supervisor import CONTROL_SOCKET
from agent.local_control import Done, MarkSlot, Request, RollBack
from agent.store.state import State
from agent.task_messages import Allowed, CheckRelease
from firmware_bundles.errors import (
    DeploymentCancelled,
    DeviceError,
    ShoalError,
    SlotBroken,
    WorkerUnavailable,
)
from firmware_bundles.wire.messages import Fault, ModelReference

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config import Config
    from agent.deployment.lifecycle import Record
    from agent.identity import Identity

STATE_NAME: Final = "state.db"


class LocalActions:
    """Marks and rollbacks, over the updater of this process."""

    def __init__(
        self, identity: Identity, updater: Updater, state: State, children: Children, root: Path
    ) -> None:
        self._identity = identity
        self._updater = updater
        self._state = state
        self._children = children
        self._root = root

    async def carry_out(self, request: Request) -> Done:
        """Return how it went.

        Raises SlotBroken, SlotUnwritable, StateDamaged, DeviceError on a retired device, and what
        the owners' terms refuse.
        """
        _check_serves(self._state)
        serving = slots.serving(self._root, request.family)
        if serving is None:
            raise SlotBroken(f"nothing of {request.family} serves on this device")
        match request:
            case MarkSlot(slot=which, mark=mark):
                slot = serving if which == "serving" else slots.other(self._root, request.family)
                self._updater.mark(slot.family, slot.name, Mark(mark))
            case RollBack():
                await self._roll_back(request.family)
        return self._outcome(request.family)

    async def _roll_back(self, family: str) -> None:
        if not self._updater.is_open(family):
            await self._check_allowed(slots.other(self._root, family))
        fault = Fault(
            code=DeploymentCancelled.code, message="somebody at the device said 'rollback'"
        )
        await self._updater.roll_back(family, fault)

    async def _check_allowed(self, slot: slots.Slot) -> None:
        facts = slots.read(slot)
        request = CheckRelease(
            metadata_dir=str(self._identity.directory.parent / "trust"),
            root=self._identity.root,
            floors=self._state.floors(),
            family=facts.family,
            model=ModelReference(
                path=f"{facts.family}/{facts.version}/manifest.json",
                digest=slots.manifest_digest(slot),
                length=slots.manifest_length(slot),
            ),
        )
        await self._children.run(request, Allowed)

    def _outcome(self, family: str) -> Done:
        serving = slots.serving(self._root, family)
        record = self._updater.records.get(family)
        return Done(
            family=family,
            slot=serving.name if serving else None,
            version=slots.read(serving).version if serving else None,
            state=record.state if record else None,
        )


async def without_core(config: Config, request: Request) -> Done:
    """Carry a request out on the state directory of an agent that does not run.

    Raises DeviceError where one runs after all, and as LocalActions.
    """
    with ExitStack() as stack:
        stack.callback(os.close, locks.hold(config.state_dir / locks.AGENT_LOCK, "agent"))
        identity = identities.load(config.state_dir, config.key_file)
        state = State.open(config.state_dir / STATE_NAME)
        stack.callback(state.close)
        _check_serves(state)
        children = Children(s_max=config.task_s_max)
        root = config.state_dir / "slots"
        updater = _updater(config, state, root)
        updater.start()
        try:
            actions = LocalActions(identity, updater, state, children, root)
            return await actions.carry_out(request)
        finally:
            await updater.stop()
            await children.stop()


def _check_serves(state: State) -> None:
    if state.retirement().is_open:
        raise DeviceError("this device is retired: it serves no model any more")


def _updater(config: Config, state: State, root: Path) -> Updater:
    steps = Steps(
        root,
        state=state,
        fetching=_NoFetcher(config.state_dir / "chunks"),
        worker=_PerhapsWorker(config.run_dir / CONTROL_SOCKET, root),
        clock=Clock(state.time_floor()),
        patience_s=0.0,
        detect=_tell,
    )
    return Updater(steps, state, on_change=lambda _record: None, detect=_tell)


def _tell(error: ShoalError) -> None:
    log.event("detected", code=error.code, reason=error.message)


class _NoFetcher:
    """Nothing is fetched here: the deployment that lacks something waits for the agent."""

    def __init__(self, directory: Path) -> None:
        self._store = ChunkStore(directory)

    async def bring(self, _record: Record, _notes: Notes) -> None:
        """Wait for the agent."""
        await asyncio.Event().wait()

    async def fill(self, _record: Record, _slot: slots.Slot) -> None:
        """Wait for the agent."""
        await asyncio.Event().wait()

    def clear(self) -> None:
        """Forget what was fetched."""
        self._store.clear()


class _PerhapsWorker:
    """The worker, if one runs without a core; else its next start, which reads the pointer."""

    def __init__(self, path: Path, root: Path) -> None:
        self._path = path
        self._root = root

    async def ask(self, request: control.Request, timeout_s: float) -> control.Response:
        try:
            return await control.call(self._path, request, timeout_s)
        except WorkerUnavailable:
            if not isinstance(request, control.Swap | control.Unload):
                raise
        serving = slots.serving(self._root, request.family)
        digest = slots.manifest_digest(serving) if serving else None
        return control.Done(family=control.FamilyStatus(digest=digest))

    async def status(self) -> control.StatusAnswer:
        return await control.status(self._path)

    def deaths(self) -> int:
        return 0


def carry_out(config: Config, request: Request) -> Done:
    """Ask the running core, or do its work where none runs. Blocks. Raises ShoalError."""
    import asyncio

    said = local_control.ask(config.run_dir / local_control.SOCKET_NAME, request)
    return said if said is not None else asyncio.run(without_core(config, request))
