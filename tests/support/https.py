"""The application of a control plane behind its real HTTPS door, in a thread of the test."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from control_plane.api import listeners

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.control_planes import ControlPlane

_START_S_MAX = 10.0


@contextmanager
def open_door(control_plane: ControlPlane, folder: Path) -> Iterator[str]:
    """Serve on a free port while the block runs; gives the address. The CA is `folder`/ca.pem."""
    folder.mkdir()
    pair = control_plane.authority.issue_server(["127.0.0.1"])
    tls = listeners.Tls(folder / "server.pem", folder / "server.key")
    tls.certificate.write_bytes(pair.certificate)
    tls.key.write_bytes(pair.key)
    (folder / "ca.pem").write_bytes(control_plane.authority.certificate_pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = listeners.Door(listener, tls, clients=folder / "ca.pem")
        server = uvicorn.Server(listeners._config(control_plane.app, door))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + _START_S_MAX
        while not server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_START_S_MAX)
