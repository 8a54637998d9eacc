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
    """Passes telemetry on as it likes; whoever sent it believes that it is under way."""

    def __init__(self, send: Callable[[str, bytes], bool], rng: random.Random) -> None:
        self._send = send
        self._rng = rng

    def __call__(self, topic: str, payload: bytes) -> bool:
        """Take a message, to be sent once, twice, now or later."""
        return self._pass(lambda: self._send(topic, payload))

    def hear(self, take: Callable[[bytes], None], payload: bytes) -> None:
        """Do the same to what comes from the other side."""

        def hand() -> bool:
            take(payload)
            return True

        self._pass(hand)

    def _pass(self, do: Callable[[], bool]) -> bool:
        loop = asyncio.get_running_loop()
        if self._rng.random() < _TWICE:
            loop.call_later(self._rng.uniform(0, _LATE_S_MAX), do)
        if self._rng.random() < _LATE:
            loop.call_later(self._rng.uniform(0, _LATE_S_MAX), do)
            return True
        return do()
