"""The signed reports of a simulated device: when the agent says one, it says one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from msgspec import UNSET

from agent import inventory
from agent.reports import PAUSE_S
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import FamilyReport, Report
from support.simulated.deployments import Deployments, Family
from support.simulated.enrolling import Member

REPORT_S: Final = 900.0


class Statements:
    """Signs with the device's key; `counter` is that of the last report that the session took."""

    def __init__(self, member: Member, incarnation: str, counter: int) -> None:
        self._member = member
        self._incarnation = incarnation
        self._asked = asyncio.Event()
        self.counter = counter

    def ask(self) -> None:
        """Let a report go out after the agent's pause."""
        asyncio.get_running_loop().call_later(PAUSE_S, self._asked.set)

    async def run(self, deployments: Deployments, send: Callable[[str, bytes], bool]) -> None:
        """Report until cancelled."""
        topic = topics.up(self._member.device, topics.Up.REPORT)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_S):
                    await self._asked.wait()
            self._asked.clear()
            report = self._report(deployments)
            if send(topic, envelopes.sign(report, self._member.signer)):
                self.counter = report.counter

    def _report(self, deployments: Deployments) -> Report:
        return Report(
            device=self._member.device,
            incarnation=self._incarnation,
            counter=self.counter + 1,
            time=time.time(),
            agent_version=inventory.agent_version(),
            families=tuple(_family(*each) for each in sorted(deployments.families.items())),
            inventory=inventory.facts(),
        )


def _family(name: str, family: Family) -> FamilyReport:
    record = family.record
    return FamilyReport(
        family=name,
        generation=record.generation if record else 0,
        state=record.state if record else None,
        rollout=record.rollout if record else None,
        serving=family.serving,
        fault=record.fault if record else None,
        transfer=(record.transfer if record else None) or UNSET,
    )
