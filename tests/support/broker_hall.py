"""A mosquitto with TLS, the service's own client, and devices that it knows or should not."""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from control_plane.broker import acl, client, mosquitto
from control_plane.broker.client import BrokerClient
from control_plane.broker.mosquitto import Mosquitto
from control_plane.fleet.authority import Authority
from processes import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from control_plane.broker.endpoint import Endpoint
    from control_plane.fleet.authority import Pair

WAIT_S_MAX = 15.0
QUIET_S = 0.5


class Peer:
    """A client with a mailbox."""

    def __init__(self, endpoint: Endpoint, name: str, tls: ssl.SSLContext | None = None) -> None:
        self.inbox: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._connected, self._subscribed = threading.Event(), threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, name)
        if tls is not None:
            self._client.tls_set_context(tls)
        self._client.on_connect = lambda *_: self._connected.set()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _c, _d, message: self.inbox.put(
            (message.topic, bytes(message.payload))
        )
        self._client.connect(endpoint.host, endpoint.port)
        self._client.loop_start()
        assert self._connected.wait(WAIT_S_MAX)

    def subscribe(self, *filters: str) -> None:
        """Subscribe, and wait for the answer (which is no permission)."""
        self._subscribed.clear()
        self._client.subscribe([(each, 1) for each in filters])
        assert self._subscribed.wait(WAIT_S_MAX)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish, and wait for the answer (which is no permission)."""
        self._client.publish(topic, payload, 1).wait_for_publish(WAIT_S_MAX)

    def next(self) -> tuple[str, bytes]:
        """Return the next message."""
        return self.inbox.get(timeout=WAIT_S_MAX)

    def hears_nothing(self) -> bool:
        """Whether nothing more comes."""
        try:
            self.inbox.get(timeout=QUIET_S)
        except queue.Empty:
            return True
        return False

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()
        if (connection := self._client.socket()) is not None:
            connection.close()  # the thread ended before it came to this


class Service:
    """The control plane's client with a mailbox."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        self.inbox: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.connected = threading.Event()
        self.client = BrokerClient(endpoint, tls)
        self.client.start(
            on_message=lambda *message: self.inbox.put(message), on_connect=self.connected.set
        )
        assert self.connected.wait(WAIT_S_MAX)

    def next(self) -> tuple[str, bytes]:
        """Return the next message."""
        return self.inbox.get(timeout=WAIT_S_MAX)

    def close(self) -> None:
        """Leave."""
        self.client.stop()


class Hall:
    """A mosquitto, the service's own client, and certificates for whoever comes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.load_or_create(directory / "ca", time.time)
        self.exceeded: list[tuple[str, str]] = []
        program = mosquitto.find()
        assert program is not None
        self.broker = Mosquitto(
            program,
            directory / "broker",
            host="127.0.0.1",
            port=free_port(),
            offered_host="127.0.0.1",
            exceeded=lambda *found: self.exceeded.append(found),
        )
        server = self.authority.issue_server(["127.0.0.1"])
        revoked = self.authority.revocation_list([])
        self.broker.prepare(self.authority.chain_pem, server, revoked)
        self.broker.start()
        self.service = Service(self.broker.own, self.tls(acl.SERVICE, self.authority))
        self.peers: list[Peer] = []

    def tls(self, name: str, authority: Authority) -> ssl.SSLContext:
        """Return the context of somebody called `name`, certified by `authority`."""
        return self.shown(authority.issue_client(name))

    def shown(self, pair: Pair) -> ssl.SSLContext:
        """Return the context of who shows this certificate."""
        folder = self.directory / f"peer-{os.urandom(4).hex()}"
        folder.mkdir()
        (folder / "key").write_bytes(pair.key)
        (folder / "certificate").write_bytes(pair.certificate)
        (folder / "ca").write_bytes(self.authority.certificate_pem)
        return client.tls_context(folder / "ca", folder / "certificate", folder / "key")

    def device(self, name: str, client_id: str = "") -> Peer:
        """Return a device that is connected."""
        peer = Peer(self.broker.own, client_id or name, self.tls(name, self.authority))
        self.peers.append(peer)
        return peer

    def close(self) -> None:
        """Send everybody home."""
        for peer in self.peers:
            peer.close()
        self.service.close()
        self.broker.stop()


def is_refused(endpoint: Endpoint, tls: ssl.SSLContext) -> bool:
    """Whether a TLS client gets no CONNACK (TLS 1.3 tells of a refused certificate late)."""
    try:
        with (
            socket.create_connection((endpoint.host, endpoint.port), timeout=5) as plain,
            tls.wrap_socket(plain, server_hostname=endpoint.host) as secure,
        ):
            secure.sendall(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x0a\x00\x05dev-a")
            return not secure.recv(4).startswith(b"\x20")
    except (ssl.SSLError, ConnectionError):
        return True


def answers(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
