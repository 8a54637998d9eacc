"""Keeps the device's certificate young: asks a task at each start, and again when it is due.

Light, as all of the core; what is asked of the server and checked stands in `reenrolment`.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from agent import log
from agent.task_messages import Renew, Renewed
from firmware_bundles.errors import ShoalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.children import Children
    from agent.clock import Clock
    from agent.config import Config

# A clock may jump: nobody sleeps for weeks on what it said.
_SLEEP_S_MAX: Final = 86_400.0
_RETRY_S_MAX: Final = 6 * 3600.0
_DOUBLINGS_MAX: Final = 16
_SPREAD: Final = 0.05


class Renewal:
    """Renews the certificate of this device, for as long as it runs."""

    def __init__(self, config: Config, children: Children, clock: Clock) -> None:
        self._config = config
        self._children = children
        self._clock = clock

    async def run(self, renewed: Callable[[], Awaitable[None]]) -> None:
        """Renew until cancelled; `renewed` is called when there is a new certificate on disk."""
        failures = 0
        while True:
            try:
                found = await self._ask()
            except ShoalError as error:
                log.event("renewal-failed", code=error.code, reason=error.message)
                failures = min(failures + 1, _DOUBLINGS_MAX)
                retry_s = self._config.renew_retry_s * 2 ** (failures - 1)
                await asyncio.sleep(min(retry_s, _RETRY_S_MAX) * random.uniform(0.5, 1))  # noqa: S311
                continue
            failures = 0
            if found.is_new:
                log.event("certificate-renewed", expires=f"{found.expires:.0f}")
                await renewed()
            await asyncio.sleep(self._pause_s(found))

    async def _ask(self) -> Renewed:
        key_file = self._config.key_file
        request = Renew(
            state_dir=str(self._config.state_dir),
            now=self._clock.now(),
            key_file=None if key_file is None else str(key_file),
        )
        return await self._children.run(request, Renewed)

    def _pause_s(self, found: Renewed) -> float:
        """Return how long to wait: until it is due, and a little longer, not all devices at once.

        Never less than a retry, for a clock far ahead takes every certificate for old.
        """
        spread_s = random.uniform(0, _SPREAD) * (found.expires - found.due)  # noqa: S311
        due_s = found.due - self._clock.now() + spread_s
        return min(max(due_s, self._config.renew_retry_s), _SLEEP_S_MAX)
