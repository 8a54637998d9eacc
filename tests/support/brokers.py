"""A mosquitto without TLS for benchmarks: what is measured is not its encryption."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control_plane.broker import mosquitto

_CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
max_queued_messages 20000
max_inflight_messages 100
persistence false
sys_interval 0
"""


@contextmanager
def bare_mosquitto(folder: Path) -> Iterator[tuple[int, int]]:
    """Run one with the service's own limits; gives its port and its process."""
    program = mosquitto.find()
    if program is None:
        raise SystemExit("this benchmark needs mosquitto: apt-get install mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = folder / "mosquitto.conf"
    path.write_text(_CONFIGURATION.format(port=port))
    with subprocess.Popen([program, "-c", str(path)], stderr=subprocess.DEVNULL) as running:
        try:
            _await_port(port)
            yield port, running.pid
        finally:
            running.terminate()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit("mosquitto did not start")
