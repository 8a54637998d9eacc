"""A real HTTP server for an application, on a free loopback port, in a thread of the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

_START_S_MAX = 10.0


@contextmanager
def serving(app: Any) -> Iterator[str]:  # noqa: ANN401 - any ASGI application
    """Serve `app` while the block runs; gives its address, for instance http://127.0.0.1:41999."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, ws="none", lifespan="auto", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        _wait_for(server)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_START_S_MAX)


def _wait_for(server: uvicorn.Server) -> None:
    deadline = time.monotonic() + _START_S_MAX
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
