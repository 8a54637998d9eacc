"""Watches models that are committed: one that takes the worker down again and again is left.

In probation the steps watch. A poisonous input is refused by the worker itself, and is no reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from agent import log
from agent.deployment.probation import DEATHS_MAX
from firmware_bundles.errors import ModelCrashing, ShoalError, WorkerUnavailable
from firmware_bundles.wire.messages import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.deployment.lifecycle import Record
    from agent.inference.control import FamilyStatus, StatusAnswer

LOOK_S: Final = 60.0


class Worker(Protocol):
    """What is asked of the inference worker."""

    async def status(self) -> StatusAnswer:
        """Return what serves. Raises WorkerUnavailable."""

    async def death(self, timeout_s: float) -> None:
        """Wait for the next death of the worker, as long as that; harmless where none is told."""


class Deployments(Protocol):
    """What is done about it."""

    def is_open(self, family: str) -> bool:
        """Return whether a deployment of this family is under way."""

    async def roll_back(self, family: str, fault: Fault) -> Record:
        """Go back to the other slot. Raises SlotBroken, StateDamaged."""


class Oversight:
    """Looks at the worker after each of its deaths, and now and then."""

    def __init__(
        self,
        worker: Worker,
        deployments: Deployments,
        detect: Callable[[ShoalError], None],
        look_s: float = LOOK_S,
    ) -> None:
        self._worker = worker
        self._deployments = deployments
        self._detect = detect
        self._look_s = look_s
        self._judged: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self._worker.death(self._look_s)
            await self.look()

    async def look(self) -> None:
        """Roll back each committed model that died at too many different inputs."""
        try:
            answer = await self._worker.status()
        except WorkerUnavailable as error:
            log.event("worker-silent", reason=error.message)
            return
        for family, facts in answer.families.items():
            if facts.killers >= DEATHS_MAX and not self._deployments.is_open(family):
                await self._leave(family, facts)

    async def _leave(self, family: str, facts: FamilyStatus) -> None:
        model = (family, facts.digest or "")
        if model in self._judged:
            return
        self._judged.add(model)
        error = ModelCrashing(
            f"the worker died at {facts.killers} different inputs of {facts.version} within an hour"
            + (f", the last time by {facts.signal}" if facts.signal else "")
        )
        log.event("model-crashing", family=family, reason=error.message)
        self._detect(error)
        try:
            await self._deployments.roll_back(family, Fault(code=error.code, message=error.message))
        except ShoalError as refusal:  # nothing good to go back to: it serves on as it can
            self._detect(refusal)
