"""Deployments of a simulated device: the agent's own table of states, with made-up outcomes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from agent.deployment import lifecycle
from agent.deployment.downloads import Downloads, Pace
from agent.deployment.lifecycle import Event, Record
from firmware_bundles import manifest
from firmware_bundles.errors import (
    DeploymentSuperseded,
    ProbationFailed,
    SelfTestFailed,
    ShoalError,
)
from firmware_bundles.manifest import Manifest
from firmware_bundles.wire.messages import (
    Assignment,
    DeploymentState,
    Fault,
    Order,
    Serving,
    Transfer,
)
from support.simulated.behaviour import Behaviour
from support.simulated.contents import Contents

_S = DeploymentState
_Outcome = tuple[Event, Fault | None]
_DONE: _Outcome = Event.DONE, None


class Family:
    """What one device has of one family: two slots, what serves, and the newest order."""

    def __init__(self) -> None:
        self.wanted: Order | None = None
        self.record: Record | None = None
        self.serving: Serving | None = None
        self.held: dict[str, Manifest] = {}  # by the digest of the manifest
        self.before: Serving | None = None
        self.overtaken = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Deployments:
    """All families of one device. `changed` hears of every step; `speed` is the behaviour's."""

    def __init__(
        self,
        behaviour: Behaviour,
        rng: random.Random,
        contents: Contents,
        downloads: Downloads,
        changed: Callable[[Record], None],
    ) -> None:
        self._behaviour = behaviour
        self._rng = rng
        self._contents = contents
        self._downloads = downloads
        self._changed = changed
        self.families: dict[str, Family] = {}

    def generations(self) -> Mapping[str, int]:
        """Return the newest generation that was admitted, by family."""
        known = self.families.items()
        return {name: each.wanted.generation for name, each in known if each.wanted}

    def offer(self, assignment: Assignment) -> None:
        """Take the orders of an admitted assignment."""
        for order in assignment.orders:
            family = self.families.setdefault(order.family, Family())
            family.wanted = order
            family.overtaken.set()
            if family.task is None or family.task.done():
                family.task = asyncio.create_task(self._run(family))

    def stop(self) -> None:
        """End what is under way."""
        for family in self.families.values():
            if family.task is not None:
                family.task.cancel()

    async def _run(self, family: Family) -> None:
        """Carry out the newest order, until it is the last one carried out."""
        while (order := family.wanted) and (
            family.record is None or order.generation > family.record.generation
        ):
            family.overtaken.clear()
            record = lifecycle.begin(order, slot="B", previous="A" if family.serving else None)
            family.record = record
            while lifecycle.is_open(record):
                event, fault = await self._step(family, record)
                record = lifecycle.advance(family.record, event, fault)
                family.record = record
                self._changed(record)
            self._contents.clear()
            live = {each.digest for each in (family.serving, family.before) if each}
            family.held = {key: facts for key, facts in family.held.items() if key in live}

    async def _step(self, family: Family, record: Record) -> _Outcome:
        """Do what a state stands for; return what came of it."""
        match record.state:
            case _S.FETCHING:
                return await self._fetch(family, record)
            case _S.SELF_TESTING:
                return await self._test(family)
            case _S.SHADOWING if record.policy.shadow:
                return await self._wait(family, record.policy.shadow.duration_s)
            case _S.SWITCHING:
                family.before, family.serving = family.serving, _serving(record)
                return _DONE
            case _S.PROBATION:
                return await self._prove(family, record)
            case _S.ROLLING_BACK:
                family.serving = family.before
                return _DONE
            case _:
                return _DONE

    async def _fetch(self, family: Family, record: Record) -> _Outcome:
        if family.serving and family.serving.digest == record.model.digest:
            return Event.ALREADY_SERVING, None
        fetching = asyncio.ensure_future(self._bring(family, record))
        overtaken = asyncio.ensure_future(family.overtaken.wait())
        try:
            await asyncio.wait({fetching, overtaken}, return_when=asyncio.FIRST_COMPLETED)
            if not fetching.done():
                return _overtaken()
            fetching.result()
            return _DONE
        except ShoalError as error:
            return Event.ERROR, Fault(code=error.code, message=error.message)
        finally:
            fetching.cancel()
            overtaken.cancel()

    async def _bring(self, family: Family, record: Record) -> None:
        """Fetch manifest and files, but what a slot has; as fast as the line is."""
        await self._downloads.fetch([record.model.digest])
        facts = manifest.parse(self._contents.read(record.model.digest))
        sizes = facts.chunk_bytes()
        held = {digest for each in family.held.values() for digest in each.chunks()}
        self._contents.expect(sizes, held)
        lacking = self._downloads.lacking(facts.chunks())
        fetched = sum(sizes[digest] for digest in lacking)
        if self._behaviour.bytes_per_s:
            await asyncio.sleep(fetched / self._behaviour.bytes_per_s)
        await self._downloads.fetch(lacking, Pace())
        family.held[record.model.digest] = facts
        family.record = msgspec.structs.replace(record, transfer=Transfer(chunk_bytes=fetched))

    async def _test(self, family: Family) -> _Outcome:
        outcome = await self._wait(family, self._behaviour.install_s)
        if outcome is _DONE and self._rng.random() < self._behaviour.fails_install:
            return Event.ERROR, Fault(code=SelfTestFailed.code, message="simulated: it failed")
        return outcome

    async def _prove(self, family: Family, record: Record) -> _Outcome:
        outcome = await self._wait(family, record.policy.probation_s)
        if outcome is _DONE and self._rng.random() < self._behaviour.fails_probation:
            return Event.ERROR, Fault(code=ProbationFailed.code, message="simulated: it failed")
        return outcome

    async def _wait(self, family: Family, for_s: float) -> _Outcome:
        """Wait; a newer order ends it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await family.overtaken.wait()
                return _overtaken()
        return _DONE


def _overtaken() -> _Outcome:
    return Event.SUPERSEDED, Fault(code=DeploymentSuperseded.code, message="a newer order came")


def _serving(record: Record) -> Serving:
    return Serving(
        digest=record.model.digest,
        version=record.model.path.split("/")[1],
        runtime="simulated",
        delegate="cpu",
        since=time.time(),
        answered=0,
    )
