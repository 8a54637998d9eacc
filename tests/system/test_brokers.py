"""Both brokers of our own, with real clients: retained chunks, and who may do what."""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paho.mqtt.enums import CallbackAPIVersion

from control_plane.broker import acl, client, mosquitto
from control_plane.broker.amqtt import Amqtt
from control_plane.broker.client import BrokerClient
from control_plane.broker.mosquitto import Mosquitto
from control_plane.fleet.authority import Authority
from firmware_bundles.errors import BrokerUnreachable
from firmware_bundles.limits import CHUNK_BYTES_MAX
from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Down, Up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from control_plane.broker.endpoint import Endpoint

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
        program = mosquitto.find()
        assert program is not None
        self.broker = Mosquitto(
            program,
            directory / "broker",
            host="127.0.0.1",
            port=free_port(),
            offered_host="127.0.0.1",
        )
        server = self.authority.issue_server(["127.0.0.1"])
        self.broker.prepare(self.authority.certificate_pem, server)
        self.broker.start()
        self.service = Service(self.broker.own, self.tls(acl.SERVICE, self.authority))
        self.peers: list[Peer] = []

    def tls(self, name: str, authority: Authority) -> ssl.SSLContext:
        """Return the context of somebody called `name`, certified by `authority`."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        issued = authority.issue_device(name, key.public_key())
        folder = self.directory / f"{name}-{os.urandom(4).hex()}"
        folder.mkdir()
        (folder / "key").write_bytes(pem)
        (folder / "certificate").write_text(issued.certificate_pem)
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


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    """Give a mosquitto with TLS, in a folder that only its owner may enter."""
    tmp_path.chmod(0o700)
    made = Hall(tmp_path)
    yield made
    made.close()


@pytest.mark.needs("mosquitto")
def test_a_device_uses_its_own_branch(hall: Hall) -> None:
    """What a device says arrives, and it hears what is said to it and to everybody."""
    device = hall.device("dev-a")
    device.subscribe(topics.all_down("dev-a"), topics.chunk("a" * 64))
    device.publish(topics.up("dev-a", Up.HELLO), b"hello")
    assert hall.service.next() == (topics.up("dev-a", Up.HELLO), b"hello")
    hall.service.client.publish(topics.down("dev-a", Down.ASSIGNMENT), b"work")
    assert device.next() == (topics.down("dev-a", Down.ASSIGNMENT), b"work")
    hall.service.client.publish(topics.chunk("a" * 64), b"chunk", retain=True)
    assert device.next() == (topics.chunk("a" * 64), b"chunk")


@pytest.mark.needs("mosquitto")
def test_a_device_neither_hears_nor_speaks_for_another(hall: Hall) -> None:
    """Device A gets nothing of B's branch by any filter; nothing that it writes there counts."""
    spy, other = hall.device("dev-a"), hall.device("dev-b")
    other.subscribe(topics.all_down("dev-b"))
    spy.subscribe(topics.all_down("dev-b"), "shoal/v1/d/+/down/#", "shoal/v1/#", "#")
    hall.service.client.publish(topics.down("dev-b", Down.ASSIGNMENT), b"secret")
    assert other.next()[1] == b"secret"
    for topic in (
        topics.up("dev-b", Up.REPORT),
        topics.down("dev-b", Down.ASSIGNMENT),
        topics.down("dev-a", Down.ASSIGNMENT),
        topics.chunk("b" * 64),
        topics.REPOSITORY_HINT,
        "shoal/v1/d/dev-a/up/telemetry/deeper",
    ):
        spy.publish(topic, b"forged")
    spy.publish(topics.up("dev-a", Up.REPORT), b"mine")
    # The broker keeps order: had a forged one passed, it would come first.
    assert hall.service.next() == (topics.up("dev-a", Up.REPORT), b"mine")
    assert other.hears_nothing()
    assert spy.hears_nothing()


@pytest.mark.needs("mosquitto")
def test_a_borrowed_client_id_kicks_nobody_out(hall: Hall) -> None:
    """The client id is the certificate's name, whatever a client claims."""
    first = hall.device("dev-a")
    first.subscribe(topics.all_down("dev-a"))
    hall.device("dev-b", client_id="dev-a")
    hall.service.client.publish(topics.down("dev-a", Down.ASSIGNMENT), b"still here")
    assert first.next()[1] == b"still here"


@pytest.mark.needs("mosquitto")
def test_foreign_certificates_are_refused(hall: Hall, tmp_path: Path) -> None:
    """A certificate of another authority with a known name, or none, gets no connection."""
    foreign = Authority.load_or_create(tmp_path / "foreign", time.time)
    without = ssl.create_default_context(cafile=str(hall.directory / "ca" / "ca.pem"))
    assert not is_refused(hall.broker.own, hall.tls("dev-a", hall.authority))
    for tls in (hall.tls("dev-a", foreign), without):
        assert is_refused(hall.broker.own, tls)


@pytest.mark.needs("mosquitto")
def test_a_port_that_is_taken_is_no_broker_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else who answers on the port is not taken for the broker: the start is refused."""
    monkeypatch.setattr("control_plane.broker.mosquitto._READY_S_MAX", 0.5)
    program = mosquitto.find()
    assert program is not None
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = Mosquitto(
            program, tmp_path / "broker", host="127.0.0.1", port=port, offered_host="127.0.0.1"
        )
        with pytest.raises(BrokerUnreachable, match="something else listens"):
            broker.start()
        broker.stop()


@pytest.mark.needs("mosquitto")
def test_what_was_saved_survives_a_kill(hall: Hall) -> None:
    """Chunks that the broker was asked to save are there after it was killed and came back."""
    topic = topics.chunk("c" * 64)
    hall.service.client.publish(topic, b"kept", retain=True)
    assert hall.service.client.flush(WAIT_S_MAX)
    hall.broker.save()
    wait_for_file(hall.directory / "broker" / "mosquitto.db", b"kept")
    hall.service.connected.clear()
    assert hall.broker.pid is not None
    os.kill(hall.broker.pid, signal.SIGKILL)
    assert hall.service.connected.wait(WAIT_S_MAX)
    device = hall.device("dev-a")
    device.subscribe(topic)
    assert device.next() == (topic, b"kept")


def test_the_broker_inside_keeps_chunks() -> None:
    """Retained chunks of the largest size come back from amqtt whole, over MQTT 3.1.1."""
    broker = Amqtt(free_port())
    broker.start()
    service = Service(broker.own, None)
    chunks: dict[str, bytes] = {}
    for _ in range(20):
        chunk = os.urandom(CHUNK_BYTES_MAX)
        chunks[topics.chunk(hashlib.sha256(chunk).hexdigest())] = chunk
    for topic, chunk in chunks.items():
        service.client.publish(topic, chunk, retain=True)
    assert service.client.flush(WAIT_S_MAX)
    device = Peer(broker.own, "dev-a")
    for topic, chunk in chunks.items():
        device.subscribe(topic)
        assert device.next() == (topic, chunk)
    device.publish(topics.up("dev-a", Up.HELLO), b"hello")
    assert service.next() == (topics.up("dev-a", Up.HELLO), b"hello")
    device.close()
    service.close()
    broker.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((broker.own.host, broker.own.port), timeout=1)


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


def wait_for_file(path: Path, content: bytes) -> None:
    """Wait until a file holds this."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not path.exists() or content not in path.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
