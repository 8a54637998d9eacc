"""A TCP proxy between a device and its broker: it cuts, throttles, and counts what MQTT says.

It reads packet by packet (MQTT 3.1.1 and 5, section 2 of both), and passes the bytes on unchanged.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from firmware_bundles.wire import topics

_PUBLISH, _SUBSCRIBE = 3, 8
_PIECE_BYTES = 64 * 1024


class TcpProxy:
    """Listens on a port of its own and connects every client to `target`.

    `delivered` counts the chunk messages that reached the client by digest, `asked` the chunks it
    subscribed to since they were last cleared. `bytes_per_s` throttles what the broker sends.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.bytes_per_s = 0.0
        self.is_refusing = False
        self.delivered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.bytes_down = 0
        self.on_chunk: Callable[[], None] = lambda: None
        self._turn = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections now, in the middle of whatever they carry."""
        with self._turn:
            cutting, self._open = self._open, set()
        for each in cutting:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Listen no more, and cut."""
        self.is_refusing = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            if self.is_refusing:
                client.close()
                broker.close()
                continue
            with self._turn:
                self._open |= {client, broker}
            for source, sink, is_down in ((client, broker, False), (broker, client, True)):
                pipe = threading.Thread(
                    target=self._pipe, args=(source, sink), kwargs={"is_down": is_down}, daemon=True
                )
                pipe.start()

    def _pipe(self, source: socket.socket, sink: socket.socket, *, is_down: bool) -> None:
        packets = _Packets()
        try:
            while piece := source.recv(_PIECE_BYTES):
                if is_down and self.bytes_per_s:
                    self._dribble(sink, piece)
                else:
                    sink.sendall(piece)
                self.bytes_down += len(piece) if is_down else 0
                for kind, head in packets.feed(piece):
                    self._count(kind, head, is_down=is_down)
        except OSError:
            pass
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            with self._turn:
                self._open.discard(each)
            each.close()

    def _dribble(self, sink: socket.socket, piece: bytes) -> None:
        step = max(1, int(self.bytes_per_s * 0.02))
        for start in range(0, len(piece), step):
            sink.sendall(piece[start : start + step])
            if self.bytes_per_s:
                time.sleep(step / self.bytes_per_s)

    def _count(self, kind: int, packet: bytes, *, is_down: bool) -> None:
        if is_down and kind == _PUBLISH:
            length = int.from_bytes(packet[:2], "big")
            digest = topics.parse_chunk(packet[2 : 2 + length].decode(errors="replace"))
            if digest:
                self.delivered[digest] += 1
                self.on_chunk()
        elif not is_down and kind == _SUBSCRIBE:
            prefix = topics.chunk("0" * 64)[:-64].encode()
            parts = packet.split(prefix)[1:]
            self.asked.update(part[:64].decode(errors="replace") for part in parts)


class _Packets:
    """Cuts a stream into packets: gives kind and body of each when it is whole."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """Take in bytes, give out packets."""
        self._data += piece
        while (found := self._length()) is not None:
            start, length = found
            if len(self._data) < start + length:
                return
            kind, body = self._data[0] >> 4, bytes(self._data[start : start + length])
            del self._data[: start + length]
            yield kind, body

    def _length(self) -> tuple[int, int] | None:
        """Return where the body starts and its length (variable byte integer, section 2.2.3)."""
        length = 0
        for place in range(1, min(5, len(self._data))):
            byte = self._data[place]
            length |= (byte & 0x7F) << (7 * (place - 1))
            if not byte & 0x80:
                return place + 1, length
        return None
