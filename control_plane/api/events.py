"""What changes, as server-sent events: one look at the database serves all who listen.

The first listener starts the looking, the last one ends it. Each listener is told the latest text
under every name, never a backlog: one that is slow skips what is outdated. What is told, and how
it looks, the caller decides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from control_plane.api.auth import Access, Role

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

PERIOD_S: Final = 1.0
HEARTBEAT_S: Final = 15.0  # a comment shows a dead connection
STREAM_S_MAX: Final = 300.0  # then the browser comes back, and is asked again who it is
LISTENERS_MAX: Final = 200
_LOG: Final = logging.getLogger(__name__)


class Message(NamedTuple):
    """One event; an empty name is the default one."""

    event: str
    data: str

    def encode(self) -> bytes:
        """Return the lines of the event (HTML Living Standard, section 9.2.6)."""
        head = [f"event: {self.event}"] if self.event else []
        lines = [f"data: {line}" for line in self.data.splitlines() or [""]]
        return ("\n".join([*head, *lines]) + "\n\n").encode()


class Feed:
    """The latest messages by name. `look` makes them all anew; it runs in a thread."""

    def __init__(
        self, look: Callable[[], Mapping[str, Message]], period_s: float = PERIOD_S
    ) -> None:
        self._look = look
        self._period_s = period_s
        self._latest: dict[str, tuple[int, Message]] = {}
        self._version = 0
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def listen(self) -> AsyncGenerator[list[Message]]:
        """Yield all messages, then those that changed; nothing but a heartbeat in quiet times."""
        if self._listeners >= LISTENERS_MAX:
            return
        self._listeners += 1
        if self._looking is None:
            self._latest.clear()
            self._looking = asyncio.create_task(self._keep_looking())
        try:
            seen, end = 0, time.monotonic() + STREAM_S_MAX
            while time.monotonic() < end:
                await self._wait(seen)
                newer = [text for version, text in self._latest.values() if version > seen]
                seen = self._version
                yield newer
        finally:
            self._listeners -= 1
            if not self._listeners and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _wait(self, seen: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S), self._changed:
                await self._changed.wait_for(lambda: self._version > seen)

    async def _keep_looking(self) -> None:
        while True:
            try:
                self._compare(await run_in_threadpool(self._look))
            except Exception:  # noqa: BLE001 - the next look may succeed
                _LOG.exception("the page cannot be renewed")
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(self._period_s)

    def _compare(self, messages: Mapping[str, Message]) -> None:
        for name, message in messages.items():
            if name not in self._latest or self._latest[name][1] != message:
                self._version += 1
                self._latest[name] = self._version, message


def router(access: Access, feed: Feed) -> APIRouter:
    """Return the route `/events`: parts of the page as they change, for browsers."""
    routes = APIRouter(tags=["events"])

    @routes.get(
        "/events",
        dependencies=[Depends(access.require(Role.VIEWER))],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def events() -> StreamingResponse:
        """Stream parts of the page as HTML, and the series of its chart as JSON."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_encode(feed), media_type="text/event-stream", headers=headers)

    return routes


async def _encode(feed: Feed) -> AsyncIterator[bytes]:
    async for messages in feed.listen():
        yield b"".join(message.encode() for message in messages) or b": alive\n\n"
