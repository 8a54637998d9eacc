"""The inbox of what devices say: how much may wait."""

from __future__ import annotations

import time

from control_plane.broker.inbox import Inbox
from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Up

MIB = 1024 * 1024


def test_what_waits_is_limited_in_bytes() -> None:
    """Large messages cannot fill the memory: what finds no room is counted, and told again."""
    inbox = Inbox({}, lambda _batch: None)
    for _ in range(100):
        inbox.put("shoal/v1/d/ant/up/telemetry", bytes(MIB))
    assert 30 <= inbox.dropped <= 40


def test_there_is_room_again_once_messages_were_handled() -> None:
    """Ten times the room passes through, if somebody takes it."""
    seen: list[int] = []
    inbox = Inbox({}, lambda batch: seen.append(len(batch)))
    topic = topics.up("ant", Up.TELEMETRY)
    inbox.start()
    sent = 0
    deadline = time.monotonic() + 20
    while sum(seen) < 640 and time.monotonic() < deadline:
        inbox.put(topic, bytes(MIB))
        sent += 1
        time.sleep(0.001)
    inbox.stop(5)
    assert sum(seen) >= 640
    assert sent <= 640 + 300
