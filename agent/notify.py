"""What a service manager is told: ready, alive, stopping (sd_notify(3), sd_watchdog_enabled(3)).

Core and worker speak to whoever started them: systemd, or for the worker the core's supervisor. How
long a silence may last is told by the manager; what it does about one is its own affair.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Final

_BEATS_PER_LIMIT: Final = 3  # one may be late and one be lost
_MICROSECONDS: Final = 1e6


class Notifier:
    """Tells the manager at `address`; without one, nobody. Never waits, and never raises."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._fault: Callable[[], str] = lambda: ""
        self._told_fault = ""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take the manager's variables out of `environ`, so that no child speaks in our name."""
        address = environ.pop("NOTIFY_SOCKET", "")
        limit_us = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", str(os.getpid()))
        is_watched = limit_us.isdecimal() and int(limit_us) > 0 and pid == str(os.getpid())
        return cls(address, int(limit_us) / _MICROSECONDS if is_watched else None)

    def ready(self, status: str) -> None:
        """Tell that the service is up, and in a few words what it does."""
        self._tell(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Tell in a few words what the service does now."""
        self._tell(f"STATUS={status}")

    def stopping(self) -> None:
        """Tell that the service ends, in order."""
        self._tell("STOPPING=1\nSTATUS=stopping")

    def watch(self, fault: Callable[[], str]) -> None:
        """Beat from now on only while `fault()` is empty; else it says what does not live."""
        self._fault = fault

    async def beat(self) -> None:
        """Tell that this loop turns, often enough for the manager; runs until cancelled."""
        while self.watchdog_s is not None:
            fault = self._fault()
            if not fault:
                self._tell("WATCHDOG=1")
            elif fault != self._told_fault:
                self.status(fault)
            self._told_fault = fault
            await asyncio.sleep(self.watchdog_s / _BEATS_PER_LIMIT)

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        # A manager that is away or busy must not disturb the service.
        with suppress(OSError), socket.socket(socket.AF_UNIX, flags) as line:
            line.sendto(text.encode(), self._address)
