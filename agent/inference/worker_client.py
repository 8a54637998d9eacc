"""The worker as the core sees it: what it is asked, and how often it died.

A worker of the core's own is counted by its supervisor. One that is a unit of its own is known only
by the incarnation in its answers: a new one is a death, an orderly restart by hand among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent.inference import control


class WorkerClient:
    """Asks over the control socket at `path`.

    `deaths` counts for the one who started it, and `died` is set at each.
    """

    def __init__(
        self,
        path: Path,
        deaths: Callable[[], int] | None = None,
        died: asyncio.Event | None = None,
    ) -> None:
        self._path = path
        self._deaths = deaths
        self._died = died or asyncio.Event()
        self._incarnations: set[str] = set()

    async def ask(self, request: control.Request, timeout_s: float) -> control.Response:
        """Return the answer. Raises WorkerUnavailable or the worker's refusal."""
        return await control.call(self._path, request, timeout_s)

    async def status(self) -> control.StatusAnswer:
        """Return what serves. Raises WorkerUnavailable."""
        answer = await control.status(self._path)
        self._incarnations.add(answer.incarnation)
        return answer

    def deaths(self) -> int:
        """Return how often the worker died since the agent's start, as far as is known."""
        if self._deaths is not None:
            return self._deaths()
        return max(0, len(self._incarnations) - 1)

    async def death(self, timeout_s: float) -> None:
        """Wait for the next death, as long as that; one of a unit of its own is not heard."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._died.wait()
        self._died.clear()
