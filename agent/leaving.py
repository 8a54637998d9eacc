"""A retired device's way out of the fleet: an order, the erasure, the report of it, the last word.

The state is persisted before anything is done, so a stop at any moment goes on at the next start.
What is erased stands in `deployment.erasure`, what the orders mean in `deployment.retirement`.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

from agent import identity, log
from agent.deployment import erasure, retirement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from agent.clock import Clock
    from agent.deployment.steps import Worker
    from agent.store.state import State
    from firmware_bundles.wire.messages import Erasure


class Leaving:
    """Takes the orders of a retirement, and carries it out."""

    def __init__(self, state_dir: Path, state: State, worker: Worker, clock: Clock) -> None:
        self._state_dir = state_dir
        self._state = state
        self._worker = worker
        self._clock = clock
        self._ordered = asyncio.Event()
        self._released = asyncio.Event()
        if self.is_open:
            self._ordered.set()

    @property
    def is_open(self) -> bool:
        """Whether this device is retired: it takes no orders to run a model."""
        return self._state.retirement().is_open

    def take(self, order: Erasure) -> None:
        """Take a signed order. Raises AssignmentReplayed, StateDamaged."""
        known = self._state.retirement()
        if retirement.is_released(known, order):
            self._released.set()
            return
        found = retirement.ordered(known, order)
        if found != known:
            self._state.save_retirement(found)
            log.event("retired", generation=found.generation)
            self._ordered.set()

    async def run(
        self,
        *,
        end_deployments: Callable[[], Awaitable[None]],
        report: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        """Erase once ordered, report it, and leave at the last word; runs until cancelled."""
        await self._ordered.wait()
        await end_deployments()
        await erasure.erase(self._state_dir, self._state, self._worker, self._clock)
        report()
        await self._released.wait()
        forget(self._state_dir)
        log.event("left", reason="this device is retired; what it was is erased")
        leave()
        await asyncio.Event().wait()


def forget(state_dir: Path) -> None:
    """Remove who this device is, and the public metadata that it had verified. Raises OSError.

    Floors and generations stay, so that nothing old counts should it ever be enrolled again.
    """
    identity.forget(state_dir)
    shutil.rmtree(state_dir / "trust", ignore_errors=True)
