"""A broker inside this process, for a first look where mosquitto is not installed.

Loopback only, no TLS, no client certificates: every process of this machine may pretend to be
any device. What it carries is signed and checked all the same. It has a thread and a plain
asyncio loop of its own (amqtt fails on uvloop) and keeps nothing on disk.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Final

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig

from control_plane.broker.endpoint import PLAIN_PORT_DEFAULT, Endpoint
from firmware_bundles.errors import BrokerUnreachable

_START_S_MAX: Final = 10.0
_STOP_S_MAX: Final = 5.0
_HOST: Final = "127.0.0.1"
NOTICE: Final = (
    "notice: a small broker (amqtt) runs inside this process, for this machine alone: "
    "no TLS, no client certificates. For devices elsewhere: apt install mosquitto."
)


class Amqtt:
    """The broker inside this process."""

    name = "amqtt"

    def __init__(self, port: int = PLAIN_PORT_DEFAULT) -> None:
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._settled = threading.Event()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._main, name="amqtt", daemon=True)

    @property
    def own(self) -> Endpoint:
        """Where the control plane itself connects."""
        return Endpoint(_HOST, self._port, is_tls=False)

    @property
    def offered(self) -> Endpoint:
        """Where devices are told to connect."""
        return self.own

    def start(self) -> None:
        """Return when clients can connect. Raises BrokerUnreachable."""
        # It reports each lost connection as a warning, with traces that nobody can act upon.
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._thread.start()
        if not self._settled.wait(_START_S_MAX) or self._fault is not None:
            raise BrokerUnreachable(
                f"the broker inside this process cannot listen on {self.own.url}: {self._fault}",
                hint="Choose another port with --broker-port.",
            ) from self._fault

    def save(self) -> None:
        """Do nothing: it keeps nothing."""

    def install(self, revoked: bytes) -> None:
        """Do nothing: it knows no certificates."""

    def stop(self) -> None:
        """Return when it is gone."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_STOP_S_MAX)

    def _main(self) -> None:
        loop = self._loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(self._serve(loop))
        except Exception as error:  # noqa: BLE001 handed to the thread that waits
            self._fault = error
        finally:
            self._settled.set()
            self._loop = None
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        broker = Broker(_configuration(self._port), loop=loop)
        await broker.start()
        self._settled.set()
        await self._stopping.wait()
        await broker.shutdown()
        _cancel_rest()


def _configuration(port: int) -> BrokerConfig:
    return BrokerConfig.from_dict(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{_HOST}:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )


def _cancel_rest() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
