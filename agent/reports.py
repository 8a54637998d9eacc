"""The device's signed statements: what runs, what was refused. The only signal of success.

A report goes out at each connect, when probation begins, when a deployment ends, soon after
something was refused, and every `report_s`. It is always about now, so none is ever queued.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import UNSET

from agent import inventory, log
from agent.deployment import retirement, slots
from agent.energy import EnergyMeter
from agent.since_serving import SinceServing
from agent.task_messages import Signed, SignReport
from firmware_bundles.errors import ClockSuspect, ShoalError, WorkerUnavailable
from firmware_bundles.limits import FAMILIES_PER_DEVICE_MAX, TEXT_CHARS_MAX
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import (
    SCHEMA,
    SCHEMA_OF_RETIREMENT,
    BufferFacts,
    Energy,
    FamilyReport,
    Fault,
    Report,
    Serving,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from agent.children import Children
    from agent.clock import Clock
    from agent.deployment.lifecycle import Record
    from agent.deployment.steps import Worker
    from agent.identity import Identity
    from agent.inference.control import FamilyStatus, StatusAnswer
    from agent.store.state import State

# What happens together is told together, and a flood of refusals does not make a flood of reports.
PAUSE_S: Final = 0.3
DETECTION_PAUSE_S: Final = 3.0


class Meanwhile(NamedTuple):
    """The worker's deaths, and what the machine used, while a model serves; None: not known."""

    deaths: int | None = None
    energy: Energy | None = None


NOTHING_KNOWN: Final = Meanwhile()


class Reports:
    """Makes, signs and sends reports when asked, and when it is time.

    They tell what `energy` measures; whoever runs reports runs it, too.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        incarnation: str,
        report_s: float,
        state: State,
        children: Children,
        worker: Worker,
        clock: Clock,
        slots_root: Path,
    ) -> None:
        self._identity = identity
        self._incarnation = incarnation
        self._report_s = report_s
        self._state = state
        self._children = children
        self._worker = worker
        self._clock = clock
        self._slots_root = slots_root
        self._is_clock_suspect = False
        self.energy = EnergyMeter()
        self._deaths, self._joules, self._seconds = (SinceServing() for _ in range(3))
        self._asked = asyncio.Event()

    def ask(self, pause_s: float = PAUSE_S) -> None:
        """Let a report go out after a pause; what is asked meanwhile is the same report."""
        asyncio.get_running_loop().call_later(pause_s, self._asked.set)

    async def run(
        self, records: Callable[[], Mapping[str, Record]], send: Callable[[str, bytes], bool]
    ) -> None:
        """Report until cancelled."""
        topic = topics.up(self._identity.device, topics.Up.REPORT)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._report_s):
                    await self._asked.wait()
            self._asked.clear()
            try:
                report = await self._make(records())
                request = SignReport(key_path=str(self._identity.key_path), report=report)
                signed = await self._children.run(request, Signed)
            except ShoalError as error:
                log.event("report-failed", code=error.code, reason=error.message)
                self.ask(DETECTION_PAUSE_S)  # what is true now is still to be told
                continue
            is_sent = send(topic, signed.envelope)
            log.event("report", counter=report.counter, sent=str(is_sent).lower())

    def _look_at_clock(self) -> None:
        """Tell of a clock that is wrong, once each time that it becomes so."""
        was_suspect, self._is_clock_suspect = self._is_clock_suspect, self._clock.is_suspect()
        if self._is_clock_suspect and not was_suspect:
            error = ClockSuspect("this machine's clock contradicts times that were signed")
            log.event("clock-suspect", code=error.code, judged_by=f"{self._clock.now():.0f}")
            self._state.detect(error.code, error.message, self._clock.now())

    async def _make(self, records: Mapping[str, Record]) -> Report:
        self._look_at_clock()
        status: StatusAnswer | None = None
        try:
            status = await self._worker.status()
        except WorkerUnavailable as error:
            log.event("worker-silent", reason=error.message)
        served = status.families if status else {}
        names = sorted({*records, *served, *slots.families(self._slots_root)})
        erased = retirement.statement(self._state.retirement())
        return Report(
            schema=SCHEMA if erased is None else SCHEMA_OF_RETIREMENT,
            device=self._identity.device,
            incarnation=self._incarnation,
            counter=self._state.next_report(),
            time=self._clock.now(),
            agent_version=inventory.agent_version(),
            families=tuple(
                family_report(
                    name, records.get(name), served.get(name), self._meanwhile(name, served)
                )
                for name in names[:FAMILIES_PER_DEVICE_MAX]
            ),
            detected=self._state.detections(),
            inventory=inventory.facts(self._slots_root.parent),
            buffer=status.buffer if status else BufferFacts(),
            erased=UNSET if erased is None else erased,
        )

    def _meanwhile(self, family: str, served: Mapping[str, FamilyStatus]) -> Meanwhile:
        status = served.get(family)
        if status is None or status.digest is None:
            return Meanwhile()
        place = family, status.digest
        deaths, spent = self._deaths.of(*place, self._worker.deaths()), self.energy.spent
        if spent is None:
            return Meanwhile(deaths)
        joules = self._joules.of(*place, int(spent.joules))
        seconds = self._seconds.of(*place, int(spent.seconds))
        return Meanwhile(deaths, Energy(joules=joules, seconds=seconds))


def family_report(
    family: str,
    record: Record | None,
    status: FamilyStatus | None,
    meanwhile: Meanwhile = NOTHING_KNOWN,
) -> FamilyReport:
    """Return the truth about one family: its deployment's state, and what answers now."""
    fault = record.fault if record else None
    if fault is None and status is not None and not status.ready and status.reason:
        fault = Fault(code=WorkerUnavailable.code, message=status.reason[:512])
    return FamilyReport(
        family=family,
        generation=record.generation if record else 0,
        state=record.state if record else None,
        rollout=record.rollout if record else None,
        serving=_serving(status, meanwhile),
        fault=fault,
        waits_for=(record.waits_for if record else None) or UNSET,
        transfer=(record.transfer if record else None) or UNSET,
        arm=record.arm if record else UNSET,
    )


def _serving(status: FamilyStatus | None, meanwhile: Meanwhile) -> Serving | None:
    if status is None or not status.ready or status.digest is None or status.version is None:
        return None
    return Serving(
        digest=status.digest,
        version=status.version,
        runtime=status.runtime,
        delegate=status.delegate,
        since=status.since,
        answered=status.answered,
        delegate_reason=status.delegate_reason[:TEXT_CHARS_MAX] or UNSET,
        failed=status.errors,
        deaths=UNSET if meanwhile.deaths is None else meanwhile.deaths,
        energy=meanwhile.energy or UNSET,
    )
