"""A real worker process under a real supervisor, as a device without systemd has it."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
from numpy.typing import NDArray

from agent.inference import control
from agent.inference.supervisor import (
    CONTROL_SOCKET,
    INFERENCE_SOCKET,
    WATCHDOG_S_DEFAULT,
    Supervisor,
)

READY_S_MAX = 30.0


class Device:
    """The state of one device, and its worker while `running`."""

    def __init__(self, state_dir: Path, run_dir: Path) -> None:
        self.state_dir = state_dir
        self.run_dir = run_dir
        self.supervisor = Supervisor(state_dir, run_dir)
        self.python = sys.executable
        self._loop: asyncio.AbstractEventLoop

    @contextmanager
    def running(self, watchdog_s: float = WATCHDOG_S_DEFAULT, **settings: float) -> Iterator[None]:
        """Supervise a worker with these settings; its end is orderly."""
        with _environment({f"SHOAL_INFERENCE_{name.upper()}": settings[name] for name in settings}):
            self.supervisor = Supervisor(
                self.state_dir, self.run_dir, self.python, watchdog_s=watchdog_s
            )
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._loop.run_forever)
            thread.start()
            try:
                self._do(self.supervisor.start())
                yield
            finally:
                self._do(self.supervisor.stop())
                self._loop.call_soon_threadsafe(self._loop.stop)
                thread.join()
                self._loop.close()

    def call(self, request: control.Request, timeout_s: float = 60) -> control.Response:
        """Ask the worker over its control socket."""
        work = control.call(self.run_dir / CONTROL_SOCKET, request, timeout_s)
        return cast("control.Response", self._do(work))

    def status(self) -> control.StatusAnswer:
        """Return the worker's status."""
        work = control.status(self.run_dir / CONTROL_SOCKET, 60)
        return cast("control.StatusAnswer", self._do(work))

    def client(self) -> httpx.Client:
        """Return a client of the endpoint."""
        transport = httpx.HTTPTransport(uds=str(self.run_dir / INFERENCE_SOCKET))
        return httpx.Client(transport=transport, base_url="http://device", timeout=READY_S_MAX)

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        """Open one plain connection to the endpoint, closed whatever happens."""
        made = http.client.HTTPConnection("device", timeout=READY_S_MAX)
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(READY_S_MAX)
        try:
            line.connect(str(self.run_dir / INFERENCE_SOCKET))
            made.sock = line
            made.auto_open = 0
            yield made
        finally:
            made.close()
            line.close()

    def kill(self) -> None:
        """Kill the worker with SIGKILL."""
        pid = self.supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def _do(self, work: Any) -> Any:  # noqa: ANN401 - it hands through what a coroutine returns
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(READY_S_MAX * 3)


@contextmanager
def device(state_dir: Path) -> Iterator[Device]:
    """Make a device whose sockets have short paths."""
    with tempfile.TemporaryDirectory(prefix="shoal-") as run_dir:
        yield Device(state_dir, Path(run_dir))


def infer(image: NDArray[np.float32], **changes: object) -> dict[str, Any]:
    """Return the body of a request."""
    given = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32"}
    return {"inputs": [given | {"data": image.ravel().tolist()} | changes]}


def wait_until(holds: Callable[[], bool], seconds: float = READY_S_MAX) -> None:
    """Return when something holds. Raises AssertionError when it does not in time."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def _environment(values: Mapping[str, object]) -> Iterator[None]:
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
