"""Identity at a real mosquitto: who is let in under which name, and how access is lost or kept."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion

from agent import enrolment, identity
from agent.children import Children
from agent.clock import Clock
from agent.config import Config
from agent.connection import Connection
from agent.renewal import Renewal
from control_plane.broker import acl
from control_plane.broker.eviction import Eviction
from control_plane.fleet.authority import Authority
from control_plane.fleet.revocation import Revocations
from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Down, Up
from support.broker_hall import WAIT_S_MAX, Hall, Peer, is_refused
from support.control_planes import ControlPlane
from support.https import open_door

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.needs("mosquitto")
DAY_S = 86_400


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    """Give a mosquitto with TLS, in a folder that only its owner may enter."""
    tmp_path.chmod(0o700)
    made = Hall(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "name", ["dev-b/up", "dev-a/../dev-b", "dev-b/down", "+", "#", "$share/x", "shoal"]
)
def test_a_strange_name_reaches_nobody(hall: Hall, name: str) -> None:
    """Even a certificate of ours that we never issue: what it hears and says stays its own."""
    victim = hall.device("dev-b")
    victim.subscribe(topics.all_down("dev-b"))
    try:
        stranger = hall.device(name)
    except (AssertionError, OSError):
        return
    stranger.subscribe("#", topics.all_down("dev-b"), "shoal/v1/d/+/down/#")
    hall.service.client.publish(topics.down("dev-b", Down.ASSIGNMENT), b"secret")
    assert victim.next()[1] == b"secret"
    for topic in (topics.up("dev-b", Up.REPORT), topics.down("dev-b", Down.ASSIGNMENT)):
        stranger.publish(topic, b"forged")
    victim.publish(topics.up("dev-b", Up.REPORT), b"mine")
    assert hall.service.next() == (topics.up("dev-b", Up.REPORT), b"mine")
    assert stranger.hears_nothing()
    assert victim.hears_nothing()


def _expired(hall: Hall) -> ssl.SSLContext:
    past = Authority.load_or_create(hall.directory / "ca", lambda: time.time() - 400 * DAY_S)
    return hall.tls("dev-a", past)


def _revoked(hall: Hall) -> ssl.SSLContext:
    pair = hall.authority.issue_client("dev-a")
    serial = f"{x509.load_pem_x509_certificate(pair.certificate).serial_number:x}"
    tls = hall.shown(pair)
    assert not is_refused(hall.broker.own, tls)
    hall.broker.install(hall.authority.revocation_list([(serial, time.time())]))
    wait_for(lambda: is_refused(hall.broker.own, tls))
    return tls


def _of_strangers(name: str) -> Callable[[Hall], ssl.SSLContext]:
    def make(hall: Hall) -> ssl.SSLContext:
        return hall.tls(name, Authority.load_or_create(hall.directory / "strangers", time.time))

    return make


def _of_a_server(hall: Hall) -> ssl.SSLContext:
    return hall.shown(hall.authority.issue_server(["dev-a"]))


def _none(hall: Hall) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(hall.directory / "ca" / "root.pem"))


@pytest.mark.parametrize(
    "shows",
    [
        pytest.param(_expired, id="expired"),
        pytest.param(_revoked, id="revoked"),
        pytest.param(_of_strangers("dev-a"), id="another authority's, same name"),
        pytest.param(_of_strangers(acl.SERVICE), id="another authority's, the service's name"),
        pytest.param(_of_a_server, id="a server's"),
        pytest.param(_none, id="none"),
    ],
)
def test_a_bad_certificate_gets_no_connection(
    hall: Hall, shows: Callable[[Hall], ssl.SSLContext]
) -> None:
    """TLS ends before a word of MQTT is read; a good one is let in at the same time."""
    assert is_refused(hall.broker.own, shows(hall))
    assert not is_refused(hall.broker.own, hall.tls("dev-a", hall.authority))


@pytest.mark.parametrize(
    "wanted",
    [
        "#",
        "shoal/#",
        "shoal/v1/d/#",
        "shoal/v1/d/+/down/#",
        "shoal/v1/d/+/up/+",
        topics.all_down("dev-b"),
        topics.down("dev-b", Down.ASSIGNMENT),
        topics.up("dev-b", Up.REPORT),
        f"$share/thieves/{topics.all_down('dev-b')}",
        "$share/thieves/shoal/v1/d/+/down/#",
        "$SYS/#",
    ],
)
def test_a_filter_beyond_ones_own_delivers_nothing(crowd: Crowd, wanted: str) -> None:
    """The broker grants each subscription and hands nothing on; the rightful one misses nothing."""
    spy = crowd.hall.device("dev-a")
    spy.subscribe(wanted, topics.all_down("dev-a"))
    down, up = topics.down("dev-b", Down.ASSIGNMENT), topics.up("dev-b", Up.REPORT)
    crowd.hall.service.client.publish(down, b"secret")
    assert crowd.victim.next() == (down, b"secret")
    crowd.victim.publish(up, b"report")
    assert crowd.hall.service.next() == (up, b"report")
    # The broker keeps order: had one of these passed, it would come first.
    crowd.hall.service.client.publish(topics.down("dev-a", Down.ACKNOWLEDGEMENT), b"mine")
    assert spy.next() == (topics.down("dev-a", Down.ACKNOWLEDGEMENT), b"mine")
    spy.close()


@pytest.mark.parametrize(
    "topic",
    [
        *(topics.up("dev-b", kind) for kind in Up),
        *(topics.down("dev-b", kind) for kind in Down),
        topics.down("dev-a", Down.ASSIGNMENT),
        topics.chunk("b" * 64),
        topics.REPOSITORY_HINT,
        topics.repository_file("timestamp.json"),
        "shoal/v1/d/dev-a/up/telemetry/deeper",
        "shoal/v1/d/dev-a/up/../../dev-b/up/report",
    ],
)
def test_what_is_written_beyond_ones_own_reaches_nobody(crowd: Crowd, topic: str) -> None:
    """Neither the control plane nor the device that it is for, nor who comes later."""
    thief = crowd.hall.device("dev-a")
    thief.publish(topic, b"forged")
    thief.publish(topics.up("dev-a", Up.HELLO), b"mine")
    # The broker keeps order: had the forged one passed, it would come first.
    assert crowd.hall.service.next() == (topics.up("dev-a", Up.HELLO), b"mine")
    crowd.hall.service.client.publish(topics.down("dev-b", Down.ACKNOWLEDGEMENT), b"yours")
    assert crowd.victim.next() == (topics.down("dev-b", Down.ACKNOWLEDGEMENT), b"yours")
    thief.close()


def test_a_greedy_subscription_is_noticed(hall: Hall) -> None:
    """Who asks for more than a device needs is named; who asks for its own is not."""
    honest, greedy = hall.device("dev-a"), hall.device("dev-b")
    honest.subscribe(topics.all_down("dev-a"), topics.chunk("a" * 64), topics.REPOSITORY_HINT)
    greedy.subscribe(topics.all_down("dev-b"), "shoal/v1/chunk/+", topics.all_down("dev-a"))
    wait_for(lambda: len(hall.exceeded) >= 2)
    assert hall.exceeded == [("dev-b", "shoal/v1/chunk/+"), ("dev-b", topics.all_down("dev-a"))]


class Crowd(NamedTuple):
    """A mosquitto with the device `dev-b`, which hears its own branch."""

    hall: Hall
    victim: Peer


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    """Give one for all rows of a table."""
    with tempfile.TemporaryDirectory() as name:
        hall = Hall(Path(name))
        victim = hall.device("dev-b")
        victim.subscribe(topics.all_down("dev-b"))
        yield Crowd(hall, victim)
        hall.close()


class Fleet:
    """A control plane behind HTTPS with a mosquitto, and devices that enrolled themselves."""

    def __init__(self, control_plane: ControlPlane, hall: Hall, url: str) -> None:
        self.control_plane = control_plane
        self.hall = hall
        self.url = url
        ca = hall.directory / "door" / "ca.pem"
        authority = control_plane.authority
        eviction = Eviction(hall.broker.own, ca, lambda name: authority.issue_client(name, 300))
        self.revocations = Revocations(
            control_plane.certificates,
            authority,
            install=hall.broker.install,
            evict=eviction.evict,
            clock=time.time,
        )

    def enrol(self, name: str, age_s: float = 0.0) -> Config:
        """Return the settings of a device whose certificate is so old."""
        state_dir = self.hall.directory / name
        self.control_plane.clock.now = time.time() - age_s
        token = self.control_plane.invite(name)
        ca = self.hall.directory / "door" / "ca.pem"
        enrolment.enrol(state_dir, server=self.url, token=token, ca=ca, device=None)
        self.control_plane.clock.now = time.time()
        return Config(
            state_dir=state_dir,
            run_dir=state_dir / "run",
            reconnect_s_min=0.05,
            reconnect_s_max=0.2,
            renew_retry_s=0.5,
        )

    def who(self, config: Config) -> identity.Identity:
        """Return a device's identity; its broker is the one here."""
        own = self.hall.broker.own
        broker = identity.Broker(own.host, own.port, True)
        return identity.load(config.state_dir)._replace(broker=broker)

    def tls(self, config: Config) -> ssl.SSLContext:
        """Return what a device shows."""
        folder = config.state_dir / identity.FOLDER
        context = ssl.create_default_context(cafile=folder / identity.CA)
        context.load_cert_chain(folder / identity.CERTIFICATE, folder / identity.KEY)
        return context


@pytest.fixture
def fleet(tmp_path: Path, hall: Hall) -> Iterator[Fleet]:
    """Give the service of `hall` over the same authority; it began long ago."""
    control_plane = ControlPlane(tmp_path, time.time())
    with open_door(control_plane, tmp_path / "door") as url:
        yield Fleet(control_plane, hall, url)
    control_plane.close()


class Line:
    """A device that stays connected if it can, as a thief would: it never gives up."""

    def __init__(self, fleet: Fleet, config: Config, name: str) -> None:
        self.ups: list[float] = []
        self.downs: list[float] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, name)
        self._client.tls_set_context(fleet.tls(config))
        self._client.reconnect_delay_set(1, 1)
        connected = threading.Event()

        def on_connect(*_rest: object) -> None:
            self.ups.append(time.monotonic())
            connected.set()

        self._client.on_connect = on_connect
        self._client.on_disconnect = lambda *_rest: self.downs.append(time.monotonic())
        own = fleet.hall.broker.own
        self._client.connect(own.host, own.port)
        self._client.loop_start()
        assert connected.wait(WAIT_S_MAX)

    @property
    def is_up(self) -> bool:
        """Whether the broker answers it now."""
        return self._client.is_connected()

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()


def test_a_revoked_device_is_out_within_seconds(fleet: Fleet) -> None:
    """Its live session ends, it never comes back, and its neighbour notices nothing."""
    stolen, honest = fleet.enrol("dev-a"), fleet.enrol("dev-b")
    thief, neighbour = Line(fleet, stolen, "dev-a"), Line(fleet, honest, "dev-b")
    fleet.revocations.tick()
    begun = time.monotonic()
    fleet.revocations.revoke("dev-a")
    fleet.revocations.tick()
    wait_for(lambda: not thief.is_up)
    assert time.monotonic() - begun < 10
    time.sleep(3)
    last = max(thief.downs)
    assert not thief.is_up
    assert [up for up in thief.ups if up > last] == []
    assert is_refused(fleet.hall.broker.own, fleet.tls(stolen))
    assert not is_refused(fleet.hall.broker.own, fleet.tls(fleet.enrol("dev-c")))
    assert (neighbour.is_up, neighbour.downs) == (True, [])
    thief.close()
    neighbour.close()


def test_a_session_kept_from_before_opens_no_door(fleet: Fleet) -> None:
    """TLS resumption does not carry a revoked certificate past the list."""
    config = fleet.enrol("dev-a")
    context = fleet.tls(config)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    kept = greet(fleet, context, None)
    assert kept is not None
    assert greet(fleet, context, kept) is not None
    fleet.revocations.tick()
    fleet.revocations.revoke("dev-a")
    fleet.revocations.tick()
    time.sleep(0.5)
    with suppress(ssl.SSLError, ConnectionError):
        assert greet(fleet, context, kept) is None


def greet(
    fleet: Fleet, context: ssl.SSLContext, kept: ssl.SSLSession | None
) -> ssl.SSLSession | None:
    """Connect, resuming a session if there is one; return the session if the broker lets us in."""
    import socket

    own = fleet.hall.broker.own
    with (
        socket.create_connection((own.host, own.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=own.host, session=kept) as secure,
    ):
        secure.sendall(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x0a\x00\x05dev-a")
        return secure.session if secure.recv(4).startswith(b"\x20") else None


@pytest.mark.parametrize("days", [45, 75])
def test_renewal_keeps_a_device_connected(fleet: Fleet, days: int) -> None:
    """An old certificate is replaced under way; one that ended offline, before the first word."""
    config = fleet.enrol("dev-a", days * DAY_S)
    before = serial(config)
    asyncio.run(live(fleet, config, before))
    assert serial(config) != before
    assert not is_refused(fleet.hall.broker.own, fleet.tls(config))


async def live(fleet: Fleet, config: Config, before: int) -> None:
    """Run a device's connection and renewal until it speaks under a new certificate."""
    changes: list[bool] = []
    connection = Connection(
        fleet.who(config),
        config,
        clock=Clock(),
        on_message=lambda _message: None,
        on_change=changes.append,
    )
    children = Children(s_max=60)
    renewed = asyncio.Event()

    async def renew() -> None:
        await connection.renew()
        renewed.set()

    connection.start()
    renewal = asyncio.create_task(Renewal(config, children, Clock()).run(renew))
    async with asyncio.timeout(30):
        await renewed.wait()
        await asyncio.to_thread(wait_for, lambda: connection.is_up)
        assert connection.publish(topics.up("dev-a", Up.HELLO), b"under a new certificate")
        heard = fleet.hall.service.next
        await asyncio.to_thread(wait_for, lambda: heard()[1] == b"under a new certificate")
    assert serial(config) != before
    renewal.cancel()
    await connection.stop()
    await children.stop()


def serial(config: Config) -> int:
    """Return the serial of the certificate that a device shows."""
    path = config.state_dir / identity.FOLDER / identity.CERTIFICATE
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
