"""Segments of a simulated device that wait for their acknowledgement, in memory.

It does what `agent.telemetry.forwarder` does with a buffer on disk: few under way at a time, sent
again when nothing comes back, forgotten only on an answer with the right tag.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from firmware_bundles.errors import ShoalError
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Acknowledgement, Segment, SegmentKey
from firmware_bundles.wire.topics import Down, Up

_IN_FLIGHT_MAX: Final = 8
_RETRY_S: Final = 10.0


class Outbox:
    """Counts what was `sealed`, `sent` (repeats included), `delivered` and `refused`."""

    def __init__(self, device: str, secret: bytes, send: Callable[[str, bytes], bool]) -> None:
        self._secret = secret
        self._send = send
        self._topic = topics.up(device, Up.TELEMETRY)
        self._answer_topic = topics.down(device, Down.ACKNOWLEDGEMENT)
        self._waiting: dict[SegmentKey, bytes] = {}
        self._in_flight: dict[SegmentKey, float] = {}
        self.sealed = self.sent = self.delivered = self.refused = self.forged = 0

    @property
    def waiting(self) -> int:
        """How many segments are not acknowledged."""
        return len(self._waiting)

    def add(self, segment: Segment) -> None:
        """Take a segment, and send what may be sent."""
        self._waiting[segment.key] = codec.seal(self._secret, self._topic, segment)
        self.sealed += 1
        self.pump()

    def acknowledged(self, payload: bytes) -> None:
        """Take an acknowledgement as it arrived."""
        try:
            answer = codec.unseal(Acknowledgement, self._secret, self._answer_topic, payload)
        except ShoalError:
            self.forged += 1
            return
        self._in_flight.pop(answer.key, None)
        if self._waiting.pop(answer.key, None) is not None:
            self.delivered += answer.fault is None
            self.refused += answer.fault is not None
        self.pump()

    def connection_changed(self) -> None:
        """Send all that is not acknowledged anew."""
        self._in_flight.clear()
        self.pump()

    def pump(self) -> None:
        """Send what is due."""
        now = time.monotonic()
        for key, payload in list(self._waiting.items())[:_IN_FLIGHT_MAX]:
            if now - self._in_flight.get(key, float("-inf")) < _RETRY_S:
                continue
            if not self._send(self._topic, payload):
                return
            self._in_flight[key] = now
            self.sent += 1
