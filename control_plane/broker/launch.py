"""Turns this process into the broker: more open files, fewer rights, and it ends with its parent.

Run as `python -I -m control_plane.broker.launch PARENT_PID USER PROGRAM [ARGUMENT ...]`; USER is
`-` to stay who one is. A program of its own because rights must be dropped before the signal of
the parent's death is asked for (prctl(2): a change of user clears it), and because code between
fork and exec of a process with threads must not be Python.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_STAY: Final = "-"


def main() -> None:
    """Prepare, then become the program."""
    parent, user, *command = sys.argv[1:]
    _raise_open_files()
    if user != _STAY:
        _become(user)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the parent died before the broker began")
    os.execv(command[0], command)  # noqa: S606 no shell is wanted


def _raise_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _become(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


if __name__ == "__main__":
    main()
