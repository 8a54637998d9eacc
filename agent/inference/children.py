"""What the worker's children have in common: how they are started, and how they refuse.

What each of them does stands in its own module: `selftest`, `probe`, `shadow`, `trial`.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agent.inference.control import Refusal
from firmware_bundles.errors import SelfTestFailed, ShoalError

if TYPE_CHECKING:
    from asyncio.subprocess import Process

# OpenBLAS would start a thread for each core, which costs memory and does nothing here.
BARE_ENVIRONMENT: Final = {"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"}

_REASON_CHARS_MAX: Final = 200
_END_S_MAX: Final = 5.0
_PIECE_BYTES: Final = 64 * 1024
# What tells a process which sockets and whose heartbeat are its own: not a child's.
_NOT_INHERITED: Final = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET")


def command(name: str) -> tuple[str, ...]:
    """Return how a module of this package is run; -I: no file of the working folder is."""
    return (sys.executable, "-I", "-m", f"agent.inference.{name}")


def own_environment() -> dict[str, str]:
    """Return this process's environment, for a child that needs what drivers need."""
    return {name: text for name, text in os.environ.items() if name not in _NOT_INHERITED}


async def end(child: Process) -> None:
    """Kill a child and wait until it is gone; one that cannot be killed is left to its driver.

    What it still says is let go: `wait` does not return while a pipe of it is full.
    """
    import asyncio  # the parent's: the child does without, and is ready sooner

    with suppress(ProcessLookupError):
        child.kill()
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_S_MAX):
            for stream in (child.stdout, child.stderr):
                while stream is not None and await stream.read(_PIECE_BYTES):
                    pass
            await child.wait()


def refusal(error: ShoalError | MemoryError | ValueError, what: str) -> Refusal:
    """Return what a child says in place of an answer; `what` names it, as "the probe"."""
    if isinstance(error, ShoalError):
        return Refusal(code=error.code, message=error.message, hint=error.hint)
    reason = f"{what} failed: {error!r:.{_REASON_CHARS_MAX}}"
    return Refusal(code=SelfTestFailed.code, message=reason)
