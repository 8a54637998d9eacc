"""The two doors of the service: HTTPS for devices, plain HTTP on loopback for this machine's users.

Both serve the same application in one event loop, until a signal asks them to end.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import uvicorn

from firmware_bundles.errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fastapi import FastAPI

_GRACE_S: Final = 2
_BACKLOG: Final = 1024


class Tls(NamedTuple):
    """Files of a server's certificate and key."""

    certificate: Path
    key: Path


class Door(NamedTuple):
    """A bound socket, with TLS or without."""

    socket: socket.socket
    tls: Tls | None


def bind(host: str, port: int, option: str) -> socket.socket:
    """Return a listening socket; `option` is the flag that chooses its port.

    Raises ConfigInvalid.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigInvalid(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint=f"Choose another port with {option}, or stop what listens there.",
        ) from error


def port_of(listener: socket.socket) -> int:
    """Return the port that a socket listens on."""
    port: int = listener.getsockname()[1]
    return port


async def serve(app: FastAPI, doors: Sequence[Door], ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; calls `ready` when all doors answer."""
    servers = [_Server(_config(app, door)) for door in doors]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _close, servers)
    serving = [
        asyncio.ensure_future(server.serve(sockets=[door.socket]))
        for server, door in zip(servers, doors, strict=True)
    ]
    opened = asyncio.ensure_future(_opened(servers))
    await asyncio.wait([opened, *serving], return_when=asyncio.FIRST_COMPLETED)
    if opened.done():
        ready()
    opened.cancel()
    await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
    _close(servers)
    await asyncio.gather(*serving)


class _Server(uvicorn.Server):
    """A server that leaves signals to `serve`: there are two of them."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_open = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the door, and say so."""
        await super().startup(sockets)
        self.is_open.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _opened(servers: Sequence[_Server]) -> None:
    for server in servers:
        await server.is_open.wait()


def _close(servers: Sequence[_Server]) -> None:
    for server in servers:
        server.should_exit = True


def _config(app: FastAPI, door: Door) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=door.tls.certificate if door.tls else None,
        ssl_keyfile=door.tls.key if door.tls else None,
    )
