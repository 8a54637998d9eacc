"""Both brokers of our own, with real clients: retained chunks, and who may do what."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from control_plane.broker import mosquitto
from control_plane.broker.amqtt import Amqtt
from control_plane.broker.mosquitto import Mosquitto
from firmware_bundles.errors import BrokerUnreachable
from firmware_bundles.limits import CHUNK_BYTES_MAX
from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Down, Up
from processes import free_port
from support.broker_hall import WAIT_S_MAX, Hall, Peer, Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
def test_what_is_told_arrives_and_leaves_nothing_to_wait_for(hall: Hall) -> None:
    """Without an acknowledgement of the broker it arrives in order; nothing is under way."""
    device = hall.device("dev-a")
    device.subscribe(topics.all_down("dev-a"))
    topic = topics.down("dev-a", Down.ACKNOWLEDGEMENT)
    for number in range(50):
        hall.service.client.tell(topic, b"%d" % number)
    assert [device.next() for _ in range(50)] == [(topic, b"%d" % each) for each in range(50)]
    hall.service.client.publish(topic, b"after")
    assert device.next() == (topic, b"after")
    assert hall.service.client.flush(WAIT_S_MAX)
    hall.service.client.stop()
    hall.service.client.tell(topic, b"lost, and no error")


@pytest.mark.needs("mosquitto")
def test_a_borrowed_client_id_kicks_nobody_out(hall: Hall) -> None:
    """The client id is the certificate's name, whatever a client claims."""
    first = hall.device("dev-a")
    first.subscribe(topics.all_down("dev-a"))
    hall.device("dev-b", client_id="dev-a")
    hall.service.client.publish(topics.down("dev-a", Down.ASSIGNMENT), b"still here")
    assert first.next()[1] == b"still here"


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


def wait_for_file(path: Path, content: bytes) -> None:
    """Wait until a file holds this."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not path.exists() or content not in path.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
