"""Chunks on request: what is answered, and what is left to other sources."""

from __future__ import annotations

import pytest

from control_plane.releases.requests import ChunkRequests
from firmware_bundles.chunks import digest_of
from firmware_bundles.errors import ChunkMissing, Malformed
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import ChunkRequest

STOCK = {digest_of(data): data for data in (b"a" * 400, b"b" * 400, b"c" * 400)}


class Desk:
    """A control plane that answers requests of device d1."""

    def __init__(self, bytes_per_s: float = 1000.0) -> None:
        self.now = 100.0
        self.sent: list[tuple[str, bytes]] = []
        self.requests = ChunkRequests(
            self._read, lambda *message: self.sent.append(message), lambda: self.now, bytes_per_s
        )

    def _read(self, digest: str) -> bytes:
        if digest not in STOCK:
            raise ChunkMissing("not here")
        return STOCK[digest]

    def ask(self, *digests: str) -> list[bytes]:
        """What comes to the device of these."""
        self.sent.clear()
        self.requests.handle("d1", codec.encode(ChunkRequest(digests=digests)))
        assert {topic for topic, _ in self.sent} <= {topics.down("d1", topics.Down.CHUNK)}
        return [data for _, data in self.sent]


def test_each_chunk_that_is_there_is_sent_once() -> None:
    """To the device that asked; others are left to other sources, and counted."""
    desk = Desk()
    first, second, _ = STOCK
    assert desk.ask(first, "0" * 64, second, first) == [STOCK[first], STOCK[second]]
    assert desk.requests.unanswered == 1


def test_answers_keep_to_a_budget_of_bytes() -> None:
    """A fleet that asks for everything gets what the control plane can spare, and more later."""
    desk = Desk(bytes_per_s=200.0)
    assert len(desk.ask(*STOCK)) == 2
    assert desk.requests.unanswered == 1
    desk.now += 2.0
    assert len(desk.ask(*STOCK)) == 1
    desk.now -= 1000.0
    assert desk.ask(*STOCK) == []


def test_a_request_of_another_form_is_refused() -> None:
    """With the wire's error."""
    desk = Desk()
    for payload in (b"", b"{}", b'{"schema":"1.0","digests":[]}', b"\xff" * 100):
        with pytest.raises(Malformed):
            desk.requests.handle("d1", payload)
