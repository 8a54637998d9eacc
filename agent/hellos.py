"""Hello: the device asks for its assignment, at each connect and when a deployment has ended.

Hellos are jittered, so that a broker's restart is no storm, and repeated, ever more rarely, until
an assignment that answers them was admitted. One is said now and then unasked: whoever keeps
assignments back, or keeps the repository as it was, is found out by the answer, or by none.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agent import inventory, log
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Hello

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from agent.config import Config

_DOUBLINGS_MAX: Final = 5
_ANSWER_S_MAX: Final = 5.0


class Hellos:
    """Says hello when asked and while unanswered."""

    def __init__(
        self, device: str, incarnation: str, config: Config, *, state_dir: Path | None = None
    ) -> None:
        self._device = device
        self._incarnation = incarnation
        self._state_dir = state_dir
        self._jitter_s = config.hello_jitter_s
        self._retry_s = config.hello_retry_s
        self._every_s = config.hello_s
        self._nonce: str | None = None
        self._asked = asyncio.Event()
        self._answered = asyncio.Event()
        self._answered.set()

    @property
    def nonce(self) -> str | None:
        """The nonce of the last hello: the only one that an assignment may echo."""
        return self._nonce

    def ask(self) -> None:
        """Say hello soon."""
        self._asked.set()

    def ask_later(self) -> None:
        """Say hello after a while: an answer came, and could not be made use of."""
        asyncio.get_running_loop().call_later(self._retry_s, self._asked.set)

    def answered(self, nonce: str | None) -> None:
        """Take note of an admitted assignment; a push (without nonce) answers nothing."""
        if nonce is not None and nonce == self._nonce:
            self._answered.set()

    async def run(
        self,
        generations: Callable[[], Awaitable[Mapping[str, int]]],
        send: Callable[[str, bytes], bool],
    ) -> None:
        """Say hello until cancelled."""
        unanswered = 0
        while True:
            was_answered = self._answered.is_set()
            wait_s = self._until_next() if was_answered else self._retry_s * 2**unanswered
            is_asked = await _within(wait_s, self._asked)
            if not is_asked and not was_answered and self._answered.is_set():
                continue
            is_first = is_asked or was_answered
            unanswered = 0 if is_first else min(unanswered + 1, _DOUBLINGS_MAX)
            await asyncio.sleep(random.uniform(0, self._jitter_s))  # noqa: S311 - only spreads load
            # A second hello would turn the answer to the first, still on its way, into a replay.
            await _within(_ANSWER_S_MAX, self._answered)
            self._asked.clear()
            self._say(await generations(), send)

    def _until_next(self) -> float:
        # A fleet that connected together must not speak together ever after.
        return self._every_s * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads load

    def _say(self, generations: Mapping[str, int], send: Callable[[str, bytes], bool]) -> None:
        self._nonce = secrets.token_hex(16)
        self._answered.clear()
        hello = Hello(
            nonce=self._nonce,
            incarnation=self._incarnation,
            agent_version=inventory.agent_version(),
            generations=dict(generations),
            inventory_digest=inventory.digest(self._state_dir),
        )
        is_sent = send(topics.up(self._device, topics.Up.HELLO), codec.encode(hello))
        if not is_sent:
            self._answered.set()  # the next connect says it anew
        log.event("hello", sent=str(is_sent).lower())


async def _within(wait_s: float, event: asyncio.Event) -> bool:
    """Wait for an event, at most so long; return whether it came."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            return await event.wait()
    return False
