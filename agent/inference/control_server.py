"""The worker's side of the control socket: JSON lines in, JSON lines out. See `control`."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent.inference import control, selftest
from agent.inference.control import (
    Done,
    Erase,
    Erasing,
    Recapture,
    Refusal,
    SelfTest,
    Shadow,
    Status,
    StatusAnswer,
    Swap,
    Unload,
)
from agent.inference.registry import Registry
from agent.store.buffer import Buffer
from agent.telemetry.recorder import Recorder
from firmware_bundles.errors import Malformed, ShoalError

_IDLE_S_MAX: Final = 600.0


class ControlServer:
    """Answers the core.

    `buffer` is a connection for the loop's thread; `erase` lets this process end, and the next one
    begin with an empty spool.
    """

    def __init__(
        self,
        state_dir: Path,
        registry: Registry,
        recorder: Recorder,
        buffer: Buffer,
        on_event: Callable[..., None],
        *,
        erase: Callable[[], None],
    ) -> None:
        self._state_dir = state_dir
        self._erase = erase
        self._registry = registry
        self._recorder = recorder
        self._buffer = buffer
        self._on_event = on_event
        self._testing = asyncio.Lock()  # one at a time: a small board has no room for two
        self._talks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listening: socket.socket) -> None:
        """Serve on a bound socket, which stays in the file system when the server is closed."""
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(limit=control.LINE_BYTES_MAX, loop=loop)
            return asyncio.StreamReaderProtocol(reader, self._met, loop=loop)

        self._server = await loop.create_server(protocol, sock=listening)

    async def close(self) -> None:
        """Take no more questions and end what is being answered, a self-test's child with it."""
        if self._server is not None:
            self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio's, when cancelled, is told as an error before Python 3.12.
        talk = asyncio.create_task(self._converse(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, TimeoutError, ValueError):
                while True:
                    async with asyncio.timeout(_IDLE_S_MAX):
                        line = await reader.readline()
                    if not line.endswith(b"\n"):
                        break
                    writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
                    await writer.drain()
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> control.Line:
        try:
            return await self._carry_out(_parse(line))
        except ShoalError as error:
            return Refusal(code=error.code, message=error.message, hint=error.hint)
        except Exception as error:  # noqa: BLE001 - the core needs an answer to every question
            self._on_event("control_failed", error=repr(error))
            return Refusal(code=ShoalError.code, message=f"the worker failed: {error!r:.200}")

    async def _carry_out(self, request: control.Request) -> control.Line:
        match request:
            case Status():
                return self._status()
            case SelfTest():
                async with self._testing:
                    return await selftest.run(self._state_dir, request)
            case Swap(family, deadline_s):
                return Done(family=await self._registry.swap(family, deadline_s))
            case Recapture(family):
                return Done(family=self._registry.recapture(family))
            case Unload(family):
                return Done(family=self._registry.unload(family))
            case Shadow(family, name, share):
                return Done(family=await self._registry.shadow(family, name, share))
            case Erase():
                return self._begin_erasure()

    def _begin_erasure(self) -> Erasing:
        for family in self._registry.families():
            self._registry.unload(family)
        segments = self._buffer.facts().segments + self._recorder.has_unsealed
        self._erase()
        return Erasing(incarnation=self._recorder.incarnation, segments=segments)

    def _status(self) -> StatusAnswer:
        families = {name: self._registry.status(name) for name in self._registry.families()}
        return StatusAnswer(
            incarnation=self._recorder.incarnation,
            families=families,
            buffer=self._buffer.facts(),
            memory_bytes=_resident_bytes(),
        )


def _resident_bytes() -> int:
    """Return what this process holds in memory now (proc(5), statm)."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _parse(line: bytes) -> control.Request:
    try:
        request: control.Request = msgspec.json.decode(line, type=control.Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the request cannot be read: {error}") from error
    return request
