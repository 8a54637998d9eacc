"""The device's session against real brokers: mosquitto, and amqtt, which refuses MQTT 5."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from agent.clock import Clock
from agent.config import Config
from agent.connection import Connection, Message
from agent.deployment.chunk_store import ChunkStore
from agent.deployment.collection import Collection
from agent.deployment.downloads import Downloads
from agent.identity import Broker, Identity
from control_plane.broker.amqtt import Amqtt
from control_plane.releases import publisher as releases
from control_plane.store.releases import Releases
from firmware_bundles import limits
from firmware_bundles.errors import ShoalError
from firmware_bundles.trust import verifier
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Presence
from processes import free_port
from support import programs
from support.release_service import ReleaseService

DEVICE = "dev-1"


class Mosquitto:
    """A mosquitto on loopback that keeps retained messages over a restart."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        self._file.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n"
            f"persistence true\npersistence_location {folder}/\n"
        )
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it listens."""
        program = programs.find("mosquitto")
        assert program is not None
        self._child = subprocess.Popen(
            [program, "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _await(lambda: _listens(self.port))

    def stop(self) -> None:
        """End it in order: it saves what it retains."""
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            self._child.wait(10)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto."""
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Mosquitto(folder)
    broker.start()
    yield broker
    broker.stop()


class Publisher:
    """The other side: publishes, and remembers what was said to it."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
        self._client.on_message = lambda _c, _d, m: self.heard.append((m.topic, bytes(m.payload)))
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_rest: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(topics.ALL_UP, qos=1)
        assert subscribed.wait(5)

    def publish(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        """Return when the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)

    def presences(self) -> list[bool]:
        """What the device's presence said, in order."""
        topic = topics.up(DEVICE, topics.Up.PRESENCE)
        return [codec.decode(Presence, data).online for name, data in self.heard if name == topic]

    def close(self) -> None:
        """End the session."""
        self._client.disconnect()
        self._client.loop_stop()


class Device:
    """A connection with downloads on it."""

    def __init__(self, port: int, folder: Path) -> None:
        self.messages: list[Message] = []
        self.changes: list[bool] = []
        self.detected: list[ShoalError] = []
        self.store = ChunkStore(folder / "chunks")
        self.collection: Collection | None = None
        identity = Identity(folder, DEVICE, "", Broker("127.0.0.1", port, False), b"", b"")
        config = Config(state_dir=folder, run_dir=folder, reconnect_s_min=0.05, reconnect_s_max=0.2)
        self.connection = Connection(
            identity, config, clock=Clock(), on_message=self._received, on_change=self._changed
        )
        self.downloads = Downloads(
            self.store,
            self.connection,
            device=DEVICE,
            window=8,
            stall_s=0.5,
            detect=self.detected.append,
        )
        self._arriving: set[asyncio.Task[None]] = set()

    def _received(self, message: Message) -> None:
        self.messages.append(message)
        if digest := topics.parse_chunk(message.topic):
            self._arriving.add(
                asyncio.create_task(self.downloads.received(digest, message.payload))
            )

        elif self.collection is not None and message.topic == topics.REPOSITORY_HINT:
            self.collection.take_hint(message.payload)
        elif self.collection is not None and (name := topics.parse_repository_file(message.topic)):
            self.collection.take_file(name, message.payload)

    def _changed(self, is_up: bool) -> None:  # noqa: FBT001
        self.changes.append(is_up)
        self.downloads.connection_changed(is_up=is_up)


def chunks_of(count: int) -> dict[str, bytes]:
    """Chunks by digest."""
    pieces = [b"%d " % number * 1000 for number in range(count)]
    return {hashlib.sha256(piece).hexdigest(): piece for piece in pieces}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _await(condition: Callable[[], object], s_max: float = 10.0) -> None:
    deadline = time.monotonic() + s_max
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


async def until(condition: Callable[[], object], s_max: float = 10.0) -> None:
    """Wait in the loop."""
    async with asyncio.timeout(s_max):
        while not condition():  # noqa: ASYNC110 - what changes is told by a broker
            await asyncio.sleep(0.01)


def test_a_connection_whose_thread_ended_has_a_fault(tmp_path: Path) -> None:
    """While it tries in vain all is well; without the thread it would never try again."""

    async def run() -> None:
        connection = Device(free_port(), tmp_path).connection
        assert connection.fault() == ""
        connection.start()
        assert connection.fault() == ""
        assert connection._client is not None
        await asyncio.to_thread(connection._client.loop_stop)
        assert connection.fault() == "the connection's thread ended"
        await connection.stop()
        assert connection.fault() == ""

    asyncio.run(run())


@pytest.mark.needs("mosquitto")
def test_presence_tells_of_coming_and_going(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Retained, of one connection; an orderly stop says offline."""
    publisher = Publisher(mosquitto.port)

    async def run() -> None:
        device = Device(mosquitto.port, tmp_path)
        device.connection.start()
        await until(lambda: device.connection.is_up)
        await until(lambda: publisher.presences() == [True])
        await device.connection.stop()

    asyncio.run(run())
    _await(lambda: publisher.presences() == [True, False])
    publisher.close()


@pytest.mark.needs("mosquitto")
def test_a_device_hears_only_what_is_said_to_it(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Its own down branch and the repository's hint, subscribed anew on each connect."""
    publisher = Publisher(mosquitto.port)
    mine = topics.down(DEVICE, topics.Down.ASSIGNMENT)

    async def run() -> None:
        device = Device(mosquitto.port, tmp_path)
        device.connection.start()
        await until(lambda: device.connection.is_up)
        for name, retain in ((topics.REPOSITORY_HINT, True), (mine, False)):
            publisher.publish(name, b"1", retain=retain)
        publisher.publish(topics.down("dev-2", topics.Down.ASSIGNMENT), b"2", retain=False)
        await until(lambda: len(device.messages) >= 2)
        assert {message.topic for message in device.messages} == {mine, topics.REPOSITORY_HINT}
        await device.connection.stop()

    asyncio.run(run())
    publisher.close()


@pytest.mark.needs("mosquitto")
def test_chunks_arrive_over_a_restart_of_the_broker(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The session comes back by itself and asks only for what is lacking."""
    retained = chunks_of(60)
    publisher = Publisher(mosquitto.port)
    for digest, data in list(retained.items())[:40]:
        publisher.publish(topics.chunk(digest), data)
    publisher.close()

    async def run() -> None:
        device = Device(mosquitto.port, tmp_path)
        watching = asyncio.create_task(device.downloads.watch())
        device.connection.start()
        fetching = asyncio.create_task(device.downloads.fetch(list(retained)))
        await until(lambda: len(list((tmp_path / "chunks").glob("*"))) >= 30)
        await asyncio.to_thread(mosquitto.stop)
        await until(lambda: not device.connection.is_up)
        await asyncio.to_thread(mosquitto.start)
        late = await asyncio.to_thread(Publisher, mosquitto.port)
        for digest, data in list(retained.items())[40:]:
            await asyncio.to_thread(late.publish, topics.chunk(digest), data)
        async with asyncio.timeout(10):
            await fetching
        await asyncio.to_thread(late.close)
        assert device.changes == [True, False, True]
        assert device.detected == []
        watching.cancel()
        await device.connection.stop()

    asyncio.run(run())
    stored = {file.name for file in (tmp_path / "chunks").iterdir()}
    assert stored == set(retained)


@pytest.mark.needs("mosquitto")
def test_a_callback_that_fails_does_not_end_the_session(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of paho would die silently of an exception."""
    publisher = Publisher(mosquitto.port)

    async def run() -> None:
        device = Device(mosquitto.port, tmp_path)
        original = Connection._received
        broken = iter([True])

        def received(self: Connection, *rest: object) -> None:
            if next(broken, False):
                raise RuntimeError("a bug")
            original(self, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(Connection, "_received", received)
        device = Device(mosquitto.port, tmp_path)
        device.connection.start()
        await until(lambda: device.connection.is_up)
        for number in range(2):
            publisher.publish(
                topics.down(DEVICE, topics.Down.ASSIGNMENT), b"%d" % number, retain=False
            )
        await until(lambda: [message.payload for message in device.messages] == [b"1"])
        await device.connection.stop()

    asyncio.run(run())
    publisher.close()


def test_a_broker_of_the_older_protocol_is_spoken_to_in_it(tmp_path: Path) -> None:
    """Of 3.1.1 only is amqtt: the session falls back by itself and works."""
    amqtt = Amqtt(free_port())
    amqtt.start()
    publisher = Publisher(amqtt.own.port)
    retained = chunks_of(20)
    for digest, data in retained.items():
        publisher.publish(topics.chunk(digest), data)

    async def run() -> None:
        device = Device(amqtt.own.port, tmp_path)
        device.connection.start()
        async with asyncio.timeout(20):
            await device.downloads.fetch(list(retained))
        await until(lambda: True in publisher.presences())
        await device.connection.stop()

    try:
        asyncio.run(run())
    finally:
        publisher.close()
        amqtt.stop()


@pytest.mark.needs("mosquitto")
def test_a_role_larger_than_a_message_comes_whole(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """What the control plane announces of a long-lived family, a new device verifies."""
    service = ReleaseService(tmp_path, time.time())
    service.begin(releases=1000)
    publisher = Publisher(mosquitto.port)
    releases.Publisher(
        service.repository,
        Releases(service.database),
        service.chunk_files,
        publisher.publish,
        service.patches,
        retained_bytes_max=64 * 1024 * 1024,
    ).announce()

    async def run() -> dict[str, bytes]:
        device = Device(mosquitto.port, tmp_path / "device")
        device.collection = Collection(device.connection, device.downloads, device.detected.append)
        device.connection.start()
        await device.collection.whole()
        assert device.detected == []
        await device.connection.stop()
        return dict(device.collection.files)

    files = asyncio.run(run())
    publisher.close()
    assert files == service.repository.files()
    assert len(files["2.digits.json"]) > 2 * limits.REPOSITORY_FILE_BYTES_MAX
    view = verifier.refresh(tmp_path / "trust", files["1.root.json"], files, service.now)
    assert view.release("digits/1000/manifest.json").number == 1000
    service.database.close()
