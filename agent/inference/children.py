"""What the worker's children have in common: how they are started, and how they refuse.

What each of them does stands in its own module: `selftest`, `probe`, `shadow`, `trial`.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from agent.inference.control import Refusal
from firmware_bundles.errors import SelfTestFailed, ShoalError

# OpenBLAS would start a thread for each core, which costs memory and does nothing here.
BARE_ENVIRONMENT: Final = {"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"}

_REASON_CHARS_MAX: Final = 200
# What tells a process which sockets and whose heartbeat are its own: not a child's.
_NOT_INHERITED: Final = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET")


def command(name: str) -> tuple[str, ...]:
    """Return how a module of this package is run; -I: no file of the working folder is."""
    return (sys.executable, "-I", "-m", f"agent.inference.{name}")


def own_environment() -> dict[str, str]:
    """Return this process's environment, for a child that needs what drivers need."""
    return {name: text for name, text in os.environ.items() if name not in _NOT_INHERITED}


def refusal(error: ShoalError | MemoryError | ValueError, what: str) -> Refusal:
    """Return what a child says in place of an answer; `what` names it, as "the probe"."""
    if isinstance(error, ShoalError):
        return Refusal(code=error.code, message=error.message, hint=error.hint)
    reason = f"{what} failed: {error!r:.{_REASON_CHARS_MAX}}"
    return Refusal(code=SelfTestFailed.code, message=reason)
