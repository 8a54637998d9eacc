"""The work of each state of a deployment. Every step may be repeated: a power cut asks for it.

A step does its work and answers with what happened. Which state follows is the lifecycle's, when
it is persisted the updater's affair.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from agent import log
from agent.deployment import captures, probation, shadowing, slots, upload_policy
from agent.deployment.lifecycle import Event, Record
from agent.deployment.seals import Mark
from agent.inference.control import (
    Done,
    Recapture,
    Request,
    Response,
    SelfTest,
    SelfTestAnswer,
    StatusAnswer,
    Swap,
    Unload,
)
from firmware_bundles.errors import (
    BundleError,
    DeploymentCancelled,
    DeploymentSuperseded,
    ProbationFailed,
    SelfTestFailed,
    ShoalError,
    SlotBroken,
    WorkerUnavailable,
)
from firmware_bundles.wire.messages import Uploading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.clock import Clock
    from agent.store.state import State
    from firmware_bundles.wire.messages import Transfer

_RETRY_S: Final = 0.5
# These faults end a deployment and say nothing of its model.
_BLAMELESS: Final = frozenset({DeploymentCancelled.code, DeploymentSuperseded.code})
_MARGIN_S: Final = 10.0
_POLL_S_MIN: Final = 0.1
_POLL_S_MAX: Final = 1.0
_POLLS_PER_PROBATION: Final = 10


class Worker(Protocol):
    """What the steps need of the inference worker."""

    async def ask(self, request: Request, timeout_s: float) -> Response:
        """Return the answer. Raises WorkerUnavailable or the worker's refusal."""

    async def status(self) -> StatusAnswer:
        """Return what serves. Raises WorkerUnavailable."""

    def deaths(self) -> int:
        """Return how often the worker died since the agent's start."""


class Notes(NamedTuple):
    """Where a download tells what it waits for (None: nothing), and what came over the line."""

    wait: Callable[[str | None], None]
    transfer: Callable[[Transfer], None]


class Fetcher(Protocol):
    """What the steps need of the network, and of the disk for downloads."""

    async def bring(self, record: Record, notes: Notes, /) -> None:
        """Bring all files of the release to this disk."""

    async def fill(self, record: Record, slot: slots.Slot, /) -> None:
        """Put the release into a slot."""

    def clear(self) -> None:
        """Forget what was fetched."""


class Steps:
    """The steps, over disk, network and worker."""

    def __init__(
        self,
        root: Path,
        *,
        state: State,
        fetching: Fetcher,
        worker: Worker,
        clock: Clock,
        patience_s: float,
        detect: Callable[[ShoalError], None],
    ) -> None:
        self.root = root
        self._state = state
        self._fetching = fetching
        self._worker = worker
        self._clock = clock
        self._patience_s = patience_s
        self._detect = detect

    async def fetch(self, record: Record, notes: Notes) -> Event:
        """Bring all files of the bundle to this device, unless a slot holds it already."""
        serving = slots.serving(self.root, record.family)
        digest = record.model.digest
        if serving is not None and await asyncio.to_thread(slots.holds, serving, digest):
            if await self._keep_capture(record, serving):
                with suppress(WorkerUnavailable):  # one that starts reads it by itself
                    await self._worker.ask(Recapture(family=record.family), _MARGIN_S)
            return Event.ALREADY_SERVING
        if await asyncio.to_thread(slots.holds, self._slot(record), digest):
            return Event.DONE
        await self._fetching.bring(record, notes)
        return Event.DONE

    async def stage(self, record: Record) -> Event:
        """Put the bundle together in the slot that does not serve."""
        slot = self._slot(record)
        if await asyncio.to_thread(slots.holds, slot, record.model.digest):
            return Event.DONE
        self._state.install_slot(record, self._clock.now())
        await self._fetching.fill(record, slot)
        return Event.DONE

    async def self_test(self, record: Record) -> Event:
        """Let a child of the worker try the model against its golden vectors."""
        deadline_s = record.policy.self_test_s_max
        request = SelfTest(
            family=record.family,
            slot="A" if record.slot == "A" else "B",
            deadline_s=deadline_s,
        )
        try:
            answer = await self._ask(request, deadline_s + _MARGIN_S)
        except (SelfTestFailed, BundleError):
            await self._condemn(record)
            raise
        if not isinstance(answer, SelfTestAnswer) or answer.digest != record.model.digest:
            raise SlotBroken("the worker tested another model than the staged one")
        log.event(
            "self-test-passed",
            family=record.family,
            runtime=answer.runtime,
            latency_us_p50=answer.latency_us_p50,
        )
        return Event.DONE

    async def shadow(self, record: Record) -> Event:
        """Let the model see mirrored inputs, if the order says so. Raises SelfTestFailed."""
        try:
            await shadowing.shadow_candidate(record, self._worker, self._ask)
        except SelfTestFailed:
            await self._condemn(record)
            raise
        return Event.DONE

    async def switch(self, record: Record) -> Event:
        """Move the pointer, then let the worker follow it."""
        await self._keep_capture(record, self._slot(record))
        await self._point_to(self._slot(record))
        upload = record.policy.upload or Uploading()
        await asyncio.to_thread(upload_policy.write, self.root, record.family, upload)
        answer = await self._swap(record.family, record.policy.self_test_s_max)
        if not isinstance(answer, Done) or answer.family.digest != record.model.digest:
            raise SlotBroken("the worker serves another model than the pointer names")
        return Event.DONE

    async def watch(self, record: Record, note: Callable[[float], None]) -> Event:
        """Watch the model serve until probation ends; `note` hears the seconds that passed.

        Raises ProbationFailed.
        """
        await shadowing.shadow_previous(record, self._worker, self._ask)
        try:
            return await self._observe(record, note)
        finally:
            await shadowing.end(record, self._worker)

    async def _observe(self, record: Record, note: Callable[[float], None]) -> Event:
        promised = await asyncio.to_thread(self._latency_promised, record)
        observer = _Observer(record, self._worker.deaths(), self._now(), promised)
        poll_s = record.policy.probation_s / _POLLS_PER_PROBATION
        while True:
            try:
                observer.see(await self._worker.status(), self._now())
            except WorkerUnavailable as error:
                log.event("worker-silent", family=record.family, reason=error.message)
            facts = observer.facts(self._worker.deaths(), self._now())
            decision = probation.decide(facts, record.policy)
            if decision.verdict is probation.Verdict.ROLL_BACK:
                raise ProbationFailed(decision.why)
            if decision.verdict is probation.Verdict.COMMIT:
                log.event("probation-passed", family=record.family, why=decision.why)
                return Event.DONE
            note(facts.elapsed_s)
            await asyncio.sleep(min(max(poll_s, _POLL_S_MIN), _POLL_S_MAX))

    async def commit(self, record: Record) -> Event:
        """Mark the slot: it holds a model that proved itself."""
        await asyncio.to_thread(slots.mark, self._slot(record), Mark.GOOD)
        self._state.commit_slot(record, self._clock.now())
        return Event.DONE

    async def roll_back(self, record: Record) -> Event:
        """Let the pointer and the worker go back; with nothing to go back to, serve nothing."""
        if record.fault is None or record.fault.code not in _BLAMELESS:
            await self._condemn(record)
        if record.previous is None:
            await asyncio.to_thread(slots.unset, self.root, record.family)
            await self._ask(Unload(family=record.family), record.policy.self_test_s_max)
            return Event.DONE
        previous = slots.slot(self.root, record.family, record.previous)
        try:
            await asyncio.to_thread(slots.read, previous)
        except SlotBroken as error:
            self._detect(error)  # a doubtful model is better than a broken one
            return Event.DONE
        await self._point_to(previous)
        await self._swap(record.family, record.policy.self_test_s_max)
        return Event.DONE

    async def serve_again(self, family: str) -> None:
        """Let the worker follow a pointer that was mended. Raises as the worker refuses."""
        await self._swap(family, self._patience_s)

    async def _swap(self, family: str, deadline_s: float) -> Response:
        return await self._ask(Swap(family, deadline_s), deadline_s + _MARGIN_S)

    async def _condemn(self, record: Record) -> None:
        """Mark a model that did harm: nothing falls back to it."""
        self._state.mark_slot(record.family, record.slot, Mark.BAD)
        with suppress(SlotBroken):
            await asyncio.to_thread(slots.mark, self._slot(record), Mark.BAD)

    async def _keep_capture(self, record: Record, slot: slots.Slot) -> bool:
        """Keep what is to be captured for the worker; an update does not fail for it."""
        capture = record.policy.capture
        try:
            return await asyncio.to_thread(captures.write, slot, record.model.digest, capture)
        except OSError as error:
            log.event("capture-not-kept", family=record.family, reason=error.strerror)
            return False

    async def _point_to(self, slot: slots.Slot) -> None:
        if not slots.has_pointer(self.root, slot.family) or slot != slots.serving(
            self.root, slot.family
        ):
            await asyncio.to_thread(slots.switch, self.root, slot)
            self._state.activate_slot(slot.family, slot.name, self._clock.now())

    def clear_chunks(self) -> None:
        """Forget the chunks: all that was put together from them lies in the slots."""
        self._fetching.clear()

    async def _ask(self, request: Request, timeout_s: float) -> Response:
        """Ask the worker, and again while it is being restarted, for as long as is patient.

        Raises ProbationFailed when the worker dies at it again and again.
        """
        deadline = self._now() + self._patience_s
        deaths = self._worker.deaths()
        while True:
            try:
                return await self._worker.ask(request, timeout_s)
            except WorkerUnavailable as error:
                died = self._worker.deaths() - deaths
                if died >= probation.DEATHS_MAX and isinstance(request, Swap | SelfTest):
                    what = type(request).__name__
                    raise ProbationFailed(f"the worker died {died} times at {what}") from error
                if self._now() >= deadline:
                    raise
            await asyncio.sleep(_RETRY_S)

    def _latency_promised(self, record: Record) -> float:
        """Return the manifest's `latency_ms_max`; 0 where the slot is broken: then none serves."""
        try:
            return slots.read(self._slot(record)).needs.latency_ms_max
        except SlotBroken:
            return 0.0

    def _slot(self, record: Record) -> slots.Slot:
        return slots.slot(self.root, record.family, record.slot)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class _Observer:
    """Adds up what the worker tells during one probation, over the worker's restarts."""

    def __init__(self, record: Record, deaths: int, now: float, latency_ms_max: float) -> None:
        self._record = record
        self._latency_ms_max = latency_ms_max
        self._memory_bytes = 0
        self._deaths = deaths
        self._began = now
        self._ready_at = now
        self._is_ready = False
        self._repeated: tuple[int, int] | None = None
        self._first: dict[str, tuple[int, int, int]] = {}
        self._last: dict[str, tuple[int, int, int]] = {}

    def see(self, answer: StatusAnswer, now: float) -> None:
        """Take in one status."""
        family = answer.families.get(self._record.family)
        self._is_ready = (
            family is not None and family.ready and family.digest == self._record.model.digest
        )
        if family is None or not self._is_ready:
            return
        self._ready_at = now
        self._memory_bytes = answer.memory_bytes
        first = self._repeated[0] if self._repeated else family.repeated_deaths
        self._repeated = first, family.repeated_deaths
        seen = (family.answered, family.errors, family.latency_us_sum)
        self._first.setdefault(answer.incarnation, (0, 0, 0) if self._first else seen)
        self._last[answer.incarnation] = seen

    def facts(self, deaths: int, now: float) -> probation.Facts:
        """Return all that was seen until now."""
        answered, errors, latency_us = (
            sum(max(0, self._last[each][place] - self._first[each][place]) for each in self._last)
            for place in (0, 1, 2)
        )
        return probation.Facts(
            elapsed_s=self._record.elapsed_s + now - self._began,
            unready_s=0.0 if self._is_ready else now - self._ready_at,
            deaths=max(deaths - self._deaths, len(self._last) - 1) - self._deaths_repeated(),
            answered=answered,
            errors=errors,
            latency_ms=latency_us / answered / 1000 if answered else 0.0,
            memory_bytes=self._memory_bytes,
            manifest_latency_ms_max=self._latency_ms_max,
        )

    def _deaths_repeated(self) -> int:
        """Return how many deaths were at an input that had killed before: it is refused now."""
        first, last = self._repeated or (0, 0)
        return max(0, last - first)
