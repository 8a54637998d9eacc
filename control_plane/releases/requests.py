"""Chunks on request: for a device that the broker's retained ones do not reach.

Answered on the device's own topic, within a budget of bytes, because each answer costs its whole
length, which a retained chunk does not. What is beyond it is left unanswered, and counted: the
device asks again, or fetches over HTTPS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from firmware_bundles.errors import ChunkMissing
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import ChunkRequest

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES_PER_S_DEFAULT: Final = 8 * 1024 * 1024
_BURST_S: Final = 4.0


class ChunkRequests:
    """Answers requests. `unanswered` counts chunks that were not there or beyond the budget."""

    def __init__(
        self,
        read: Callable[[str], bytes],
        publish: Callable[[str, bytes], None],
        clock: Callable[[], float],
        bytes_per_s: float = BYTES_PER_S_DEFAULT,
    ) -> None:
        self._read = read
        self._publish = publish
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._budget = bytes_per_s * _BURST_S
        self._refilled = clock()
        self.unanswered = 0

    def handle(self, device_id: str, payload: bytes) -> None:
        """Send each chunk that a device asks for. Raises WireError, BrokerUnreachable."""
        request = codec.decode(ChunkRequest, payload)
        topic = topics.down(device_id, topics.Down.CHUNK)
        self._refill()
        for digest in dict.fromkeys(request.digests):
            try:
                data = self._read(digest)
            except ChunkMissing:
                self.unanswered += 1
                continue
            if len(data) > self._budget:
                self.unanswered += 1
                continue
            self._budget -= len(data)
            self._publish(topic, data)

    def _refill(self) -> None:
        now = self._clock()
        earned = max(0.0, now - self._refilled) * self._bytes_per_s
        self._budget = min(self._budget + earned, self._bytes_per_s * _BURST_S)
        self._refilled = now
