"""The heads of requests that were seen before, byte for byte: what they say need not be read again.

A client repeats its head with every request. Only heads that the parser took without a complaint,
of requests that came whole and keep the connection, are remembered; how they are read is `http`'s
affair.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_HEADS_MAX: Final = 256
_HEAD_BYTES_MAX: Final = 2048
_HEADERS_MAX: Final = 32
_END: Final = b"\r\n\r\n"


class Head(NamedTuple):
    """What a head says. Header names are in small letters."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body_bytes: int


class Heads:
    """What is remembered, bounded in number and size; beyond it, all is forgotten."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, data: bytes) -> tuple[Head, bytes] | None:
        """Return head and body of what is exactly one request with a known head, else None."""
        end = data.find(_END, 0, _HEAD_BYTES_MAX + len(_END))
        known = self._known.get(data[:end]) if end >= 0 else None
        start = end + len(_END)
        if known is None or len(data) - start != known.body_bytes:
            return None
        return known, data[start:]

    def learn(self, data: bytes, head: Head) -> None:
        """Remember the head of a request that came as `data`, if it is whole and plain."""
        end = data.find(_END, 0, _HEAD_BYTES_MAX + len(_END))
        text, body_bytes = data[: max(end, 0)], len(data) - end - len(_END)
        said = head.headers.get(b"content-length", b"0")
        is_plain = end >= 0 and said.isdigit() and int(said) == body_bytes == head.body_bytes
        is_small = len(head.headers) <= _HEADERS_MAX
        if not is_plain or not is_small or b"transfer-encoding" in head.headers:
            return
        if len(self._known) >= _HEADS_MAX:
            self._known.clear()
        self._known[text] = head
