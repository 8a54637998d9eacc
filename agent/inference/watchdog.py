"""The supervisor's ear for its worker's heartbeat, as a service manager has one (sd_notify(3)).

One socket for one worker after the other. What is done about a silence is the supervisor's affair.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

NOTIFY_SOCKET: Final = "notify.sock"

_DATAGRAM_BYTES_MAX: Final = 4096
_MICROSECONDS: Final = 1_000_000
# Until it is ready a worker verifies and loads its models, and does not beat.
_START_S_MAX: Final = 90.0


class Watchdog:
    """Hears on a socket at `path`; silence for longer than `limit_s` is too long."""

    def __init__(self, path: Path, limit_s: float) -> None:
        self._path = path
        self._limit_s = limit_s
        self._socket: socket.socket | None = None
        self._heard = 0.0
        self._is_ready = False

    @property
    def environment(self) -> dict[str, str]:
        """What the worker must find in its environment."""
        limit_us = int(self._limit_s * _MICROSECONDS)
        return {"NOTIFY_SOCKET": str(self._path), "WATCHDOG_USEC": str(limit_us)}

    def open(self) -> None:
        """Bind the socket and listen in the running loop. Raises OSError."""
        self._path.unlink(missing_ok=True)
        flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_UNIX, flags)
        self._socket.bind(str(self._path))
        self._path.chmod(0o600)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def close(self) -> None:
        """Listen no more, and remove the socket; harmless when it was never opened."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    async def silence(self) -> float:
        """Wait on a worker that starts now, until it was silent for too long; return how long."""
        self._hear()  # the last words of the one before
        self._is_ready, self._heard = False, self._now()
        while True:
            limit_s = self._limit_s if self._is_ready else max(_START_S_MAX, self._limit_s)
            left_s = self._heard + limit_s - self._now()
            if left_s <= 0:
                self._hear()  # this process may itself have been stopped, and words be waiting
                left_s = self._heard + limit_s - self._now()
            if left_s <= 0:
                return self._now() - self._heard
            # Readiness shortens the limit: look again before the shorter one is over.
            await asyncio.sleep(min(left_s, self._limit_s))

    def _hear(self) -> None:
        """Take in all datagrams that wait."""
        with suppress(BlockingIOError):
            while self._socket is not None:
                words = self._socket.recv(_DATAGRAM_BYTES_MAX).split(b"\n")
                self._is_ready |= b"READY=1" in words
                if self._is_ready:
                    self._heard = self._now()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
