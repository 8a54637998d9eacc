"""A worker that is handed sockets as a service manager does: a loopback TCP port among them."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_HIGH = 64  # far from the numbers that the child expects


@contextmanager
def serving_on_tcp(state_dir: Path) -> Iterator[int]:
    """Serve what the state's slots hold on a loopback port, and yield the port."""
    control = socket.socket(socket.AF_UNIX)
    control.bind(b"\0shoal-test-%d" % os.getpid())
    listening = socket.create_server(("127.0.0.1", 0))
    control.listen()
    handed = [
        fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, _HIGH) for each in (listening, control)
    ]
    environment = {**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "inference:control"}
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-m", "agent.inference.worker", "--state-dir", str(state_dir)],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, descriptor, _FIRST_DESCRIPTOR + place)
            for place, descriptor in enumerate(handed)
        ],
    )
    try:
        yield listening.getsockname()[1]
    finally:
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        for descriptor in handed:
            os.close(descriptor)
        control.close()
        listening.close()
    assert os.waitstatus_to_exitcode(status) == 0
