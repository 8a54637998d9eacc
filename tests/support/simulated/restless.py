"""A line that delivers some messages twice, some late, and so in another order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

_TWICE: Final = 0.25
_LATE: Final = 0.4
_LATE_S_MAX: Final = 1.5


class Restless:
    """Passes telemetry on as it likes; whoever sent it, from any thread, believes it under way."""

    def __init__(self, send: Callable[[str, bytes], bool], rng: random.Random) -> None:
        self._send = send
        self._rng = rng
        self._loop = asyncio.get_running_loop()

    def __call__(self, topic: str, payload: bytes) -> bool:
        """Take a message, to be sent once, twice, now or later."""
        self._loop.call_soon_threadsafe(self._pass, lambda: self._send(topic, payload))
        return True

    def hear(self, take: Callable[[bytes], None], payload: bytes) -> None:
        """Do the same to what comes from the other side."""
        self._pass(lambda: take(payload))

    def _pass(self, do: Callable[[], object]) -> None:
        if self._rng.random() < _TWICE:
            self._loop.call_later(self._rng.uniform(0, _LATE_S_MAX), do)
        if self._rng.random() < _LATE:
            self._loop.call_later(self._rng.uniform(0, _LATE_S_MAX), do)
        else:
            do()
