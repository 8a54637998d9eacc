"""Starting, watching and ending programs. What they are told stands in `fleet`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_STOP_S_MAX = 15.0
_SERVER_PORTS = range(15_000, 32_000)
_CHANCE = random.SystemRandom()


class ProgramError(RuntimeError):
    """A program ended in another way than it should; the message carries what it said last."""


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Program:
    """One long-running program in a process group of its own, its output in a log file."""

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (nothing here has started a thread yet)
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_for(self, is_there: Callable[[], bool], what: str, within_s: float) -> None:
        """Wait until `is_there()`; raises ProgramError when the program or the time ends first."""
        deadline = time.monotonic() + within_s
        while not is_there():
            if not self.is_running:
                raise ProgramError(f"{self.name} ended before {what}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProgramError(f"{self.name}: no {what} within {within_s:g} s:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """End the program itself at once, as a power cut would; its children stay."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        if self.is_running:
            self._process.terminate()

    def stop(self) -> None:
        """Ask it to end, insist after a while, and leave nothing of its group behind."""
        self.terminate()
        try:
            self._process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children of `pid`, whichever of its threads started them."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found += [int(child) for child in listing.read_text().split()]
    return found


def command_line(pid: int) -> str:
    """Return the words that started `pid`, or nothing if it is gone."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except (FileNotFoundError, ProcessLookupError):
        return ""


def resident_mb(pid: int) -> float:
    """Return the proportional set size of a process in megabytes; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0.0


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody uses now.

    Below those that the system gives to connections: none of them takes it before its server does.
    """
    for number in _CHANCE.sample(_SERVER_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", number))
            return number
    raise ProgramError(f"a hundred ports of {_SERVER_PORTS} are in use")


def program(name: str) -> str:
    """Return the path of a program installed beside this interpreter."""
    return str(Path(sys.executable).parent / name)
