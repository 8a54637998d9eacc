"""Listens in between one device and its broker, both over TLS, and counts bytes by purpose.

It holds the broker's key towards the device and the device's towards the broker, so both speak as
they always do. Bytes are those of the TLS records: what TCP carries, without its own headers.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

# A record's header, content type and tag (RFC 8446, section 5.2), around each packet of MQTT.
RECORD_BYTES: Final = 22
_KINDS: Final = {1: "connect", 2: "connect", 12: "keepalive", 13: "keepalive", 14: "connect"}
_PUBLISH, _SUBSCRIBE, _UNSUBSCRIBE = 3, 8, 10
# Which parts of a topic say what it is for (docs/reference/wire.md).
_PURPOSES: Final = (
    ("/up/hello", "hello"),
    ("/down/assignment", "hello"),
    ("/up/report", "report"),
    ("/up/telemetry", "telemetry"),
    ("/down/ack", "telemetry"),
    ("/repo/", "refresh"),
    ("/chunk/", "model"),
)
_TCP_INFO_COUNTS: Final = (120, "QQII")  # bytes acked and received, segments out and in
_TCP_INFO_BYTES: Final = 256


class Packet(NamedTuple):
    """One MQTT packet as it passed: when (monotonic), what for, bytes with its TLS record."""

    time: float
    purpose: str
    bytes: int


class Transferred(NamedTuple):
    """What TCP has carried on the device's connection: payload bytes and segments, both ways."""

    bytes: int
    segments: int


class Tap:
    """Takes connections on `port` and hands them on to the broker."""

    def __init__(self, broker: Path, device: Path, broker_port: int) -> None:
        self.packets: list[Packet] = []
        self._broker_port = broker_port
        self._inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inside.load_cert_chain(broker / "server.pem", broker / "server.key")
        self._inside.load_verify_locations(broker / "ca.pem")
        self._inside.verify_mode = ssl.CERT_REQUIRED
        self._outside = ssl.create_default_context(cafile=str(broker / "ca.pem"))
        self._outside.load_cert_chain(device / "device.crt", device / "device.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._line: ssl.SSLSocket | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def count(self, since: float, until: float = float("inf")) -> Counter[str]:
        """Return the bytes of a span of time, by purpose."""
        found: Counter[str] = Counter()
        for packet in self.packets:
            if since <= packet.time < until:
                found[packet.purpose] += packet.bytes
        return found

    def pings(self, since: float, until: float) -> int:
        """Return how many keepalives were asked and answered in a span of time."""
        times = [p.time for p in self.packets if p.purpose == "keepalive"]
        return sum(since <= each < until for each in times) // 2

    def transferred(self) -> Transferred:
        """Return what TCP says of the present connection (tcp(7), TCP_INFO)."""
        assert self._line is not None
        info = self._line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        offset, form = _TCP_INFO_COUNTS
        acked, received, out, into = struct.unpack_from(f"={form}", info, offset)
        return Transferred(acked + received, out + into)

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError, ssl.SSLError):
                upstream = socket.create_connection(("127.0.0.1", self._broker_port))
                outside = self._outside.wrap_socket(upstream, server_hostname="127.0.0.1")
                self._line = inside = self._inside.wrap_socket(plain, server_side=True)
                session = _Session(self.packets.append)
                for source, sink, way in ((inside, outside, "up"), (outside, inside, "down")):
                    threading.Thread(
                        target=_pump, args=(source, sink, session.reader(way)), daemon=True
                    ).start()


class _Session:
    """The packets of one connection; an answer is counted for what it answers."""

    def __init__(self, note: Callable[[Packet], None]) -> None:
        self._note = note
        self._asked: dict[tuple[str, int], str] = {}

    def reader(self, way: str) -> Callable[[bytes], None]:
        """Return what takes in the bytes of one direction."""
        held = bytearray()

        def read(data: bytes) -> None:
            held.extend(data)
            for kind, flags, body, size in _packets(held):
                purpose = self._purpose(way, kind, flags, body)
                self._note(Packet(time.monotonic(), purpose, size + RECORD_BYTES))

        return read

    def _purpose(self, way: str, kind: int, flags: int, body: bytes) -> str:
        if kind in _KINDS:
            return _KINDS[kind]
        if kind == _PUBLISH:
            length = int.from_bytes(body[:2], "big")
            purpose = _by_topic(body[2 : 2 + length])
            if flags & 0b110:
                self._asked[way, int.from_bytes(body[2 + length : 4 + length], "big")] = purpose
            return purpose
        number = int.from_bytes(body[:2], "big")
        if kind in {_SUBSCRIBE, _UNSUBSCRIBE}:
            self._asked[way, number] = _by_topic(body[2:])
            return self._asked[way, number]
        return self._asked.get(("down" if way == "up" else "up", number), "connect")


def _by_topic(text: bytes) -> str:
    decoded = text.decode("utf-8", "replace")
    return next((purpose for part, purpose in _PURPOSES if part in decoded), "connect")


def _packets(held: bytearray) -> Iterator[tuple[int, int, bytes, int]]:
    """Take whole packets off: kind, flags, body, size (MQTT 5, section 2.1)."""
    while len(held) > 1:
        length, place = 0, 1
        while True:
            if place >= len(held):
                return
            length |= (held[place] & 0x7F) << 7 * (place - 1)
            place += 1
            if not held[place - 1] & 0x80:
                break
        size = place + length
        if len(held) < size:
            return
        yield held[0] >> 4, held[0] & 0xF, bytes(held[place:size]), size
        del held[:size]


def _pump(source: ssl.SSLSocket, sink: ssl.SSLSocket, read: Callable[[bytes], None]) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := source.recv(65536):
            sink.sendall(data)
            read(data)
    for line in (source, sink):
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
