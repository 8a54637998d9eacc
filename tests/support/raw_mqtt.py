"""MQTT 3.1.1 with almost no cost: packets made before, acknowledgements counted by their length.

For loads beside what they measure; only what these need of the protocol is here.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

_CONNECT: Final = 0x10
_PUBLISH_QOS_1: Final = 0x32
_SUBSCRIBE: Final = 0x82
_PUBACK_BYTES: Final = 4
_RECEIVED_BYTES_MAX: Final = 256 * 1024


class Message(NamedTuple):
    """What came."""

    topic: str
    payload: bytes


def publish_packet(topic: str, payload: bytes, number: int) -> bytes:
    """Return a PUBLISH with QoS 1 (MQTT 3.1.1, section 3.3); `number` is 1 to 65535."""
    body = _text(topic) + struct.pack("!H", number) + payload
    return bytes([_PUBLISH_QOS_1]) + _length(len(body)) + body


class Line:
    """One connection. `received` does not wait."""

    def __init__(self, port: int, name: str) -> None:
        self._line = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        body = _text("MQTT") + bytes([4, 2]) + struct.pack("!H", 600) + _text(name)
        self._line.sendall(bytes([_CONNECT]) + _length(len(body)) + body)
        assert self._line.recv(4)[3] == 0, "the broker refused us"

    def subscribe(self, topic_filter: str) -> None:
        """Subscribe with QoS 0."""
        body = struct.pack("!H", 1) + _text(topic_filter) + bytes([0])
        self._line.sendall(bytes([_SUBSCRIBE]) + _length(len(body)) + body)
        assert len(self._line.recv(5)) == 5

    def fileno(self) -> int:
        """For select."""
        return self._line.fileno()

    def send(self, packets: bytes) -> None:
        """Send whole packets."""
        self._line.sendall(packets)

    def acknowledged(self) -> int:
        """Read what is there, on a line that only publishes; return how many PUBACKs it was."""
        data = self._rest + self._line.recv(_RECEIVED_BYTES_MAX)
        count, rest = divmod(len(data), _PUBACK_BYTES)
        self._rest = data[len(data) - rest :]
        return count

    def received(self) -> list[Message]:
        """Read what is there, on a line that only subscribes."""
        data = self._rest + self._line.recv(_RECEIVED_BYTES_MAX)
        found: list[Message] = []
        at = 0
        while (end := _end(data, at)) is not None:
            start, stop = end
            (size,) = struct.unpack_from("!H", data, start)
            topic = data[start + 2 : start + 2 + size].decode()
            found.append(Message(topic, data[start + 2 + size : stop]))
            at = stop
        self._rest = data[at:]
        return found

    def close(self) -> None:
        """Leave."""
        self._line.close()


def _end(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the body of the packet at `at` begins and ends, None if it is not whole."""
    length, shift, place = 0, 0, at + 1
    while place < len(data):
        length |= (data[place] & 0x7F) << shift
        shift += 7
        place += 1
        if not data[place - 1] & 0x80:
            return (place, place + length) if place + length <= len(data) else None
    return None


def _length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, digit = size >> 7, size & 0x7F
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data
