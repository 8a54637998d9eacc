"""What somebody at this device asks of the running core: one JSON line each way, on a socket.

    <run-dir>/agent.sock    mode 0600: whoever may open it is the agent's own user, or root

What is asked is carried out by `local_actions`, also where no core runs.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from agent import log
from firmware_bundles.errors import DeviceError, Malformed, ShoalError, from_code
from firmware_bundles.identifiers import Family, ModelVersion
from firmware_bundles.wire.messages import DeploymentState

if TYPE_CHECKING:
    from pathlib import Path

SOCKET_NAME: Final = "agent.sock"
_LINE_BYTES_MAX: Final = 4096
_READ_S_MAX: Final = 5.0
_ANSWER_S_MAX: Final = 120.0

Which = Literal["serving", "other"]


class MarkSlot(msgspec.Struct, frozen=True, kw_only=True, tag="mark"):
    """Mark what a slot holds good or bad."""

    family: Family
    slot: Which
    mark: Literal["good", "bad"]


class RollBack(msgspec.Struct, frozen=True, kw_only=True, tag="roll_back"):
    """Let the other slot serve again, or end an open deployment."""

    family: Family


Request = MarkSlot | RollBack


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """It was carried out; this is what the pointer names now, and how the deployment stands."""

    family: Family
    slot: str | None
    version: ModelVersion | None
    state: DeploymentState | None


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """It was not; by the error's code."""

    code: str
    message: str
    hint: str = ""


class Actions(Protocol):
    """What carries requests out."""

    async def carry_out(self, request: Request) -> Done:
        """Return how it went. Raises ShoalError."""


class LocalControl:
    """Listens, one request a connection."""

    def __init__(self, path: Path, actions: Actions) -> None:
        self._path = path
        self._actions = actions
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; where that cannot be, say so: a device does its work without."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            listening.bind(str(self._path))
            self._path.chmod(0o600)  # before anybody can connect
        except OSError as error:
            listening.close()
            log.event("local-not-listening", path=self._path, reason=str(error))
            return
        self._server = await asyncio.start_unix_server(
            self._met, sock=listening, limit=_LINE_BYTES_MAX
        )

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer: Done | Refusal
        try:
            with suppress(ConnectionError, TimeoutError, ValueError):
                async with asyncio.timeout(_READ_S_MAX):
                    line = await reader.readline()
                try:
                    answer = await self._actions.carry_out(_parse(line))
                except ShoalError as error:
                    log.event("local-refused", code=error.code, reason=error.message)
                    answer = Refusal(code=error.code, message=error.message, hint=error.hint)
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
        finally:
            writer.close()


def ask(path: Path, request: Request) -> Done | None:
    """Ask the core behind the socket; None where none listens. Blocks.

    Raises the core's own refusal by its code, DeviceError when it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_ANSWER_S_MAX)
        try:
            line.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        try:
            line.sendall(msgspec.json.encode(request) + b"\n")
            with line.makefile("rb") as answers:
                said = msgspec.json.decode(answers.readline(_LINE_BYTES_MAX), type=Done | Refusal)
        except (OSError, msgspec.DecodeError) as error:
            raise DeviceError(f"the agent did not answer: {error}") from error
    if isinstance(said, Refusal):
        raise from_code(said.code, said.message, said.hint)
    return said


def _parse(line: bytes) -> Request:
    try:
        request: Request = msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the request cannot be read: {error}") from error
    return request
