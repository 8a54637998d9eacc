"""What others saw devices do that they may not: counted as it comes, stored in rounds."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from firmware_bundles.errors import SubscriptionExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.store.devices import Devices

_LOG: Final = logging.getLogger(__name__)
_FILTER_CHARS_MAX: Final = 120


class Misconduct:
    """Notes subscriptions beyond what a device needs; `tick` stores them, one row a device."""

    def __init__(self, devices: Devices, clock: Callable[[], float]) -> None:
        self._devices = devices
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, str]] = {}

    def subscribed(self, device_id: str, wanted: str) -> None:
        """Take note that a device subscribed to `wanted`; never waits for the database."""
        with self._lock:
            count, _ = self._seen.get(device_id, (0, ""))
            self._seen[device_id] = (count + 1, wanted[:_FILTER_CHARS_MAX])

    def tick(self) -> None:
        """Store what was noted since the last round, and tell the log."""
        with self._lock:
            seen, self._seen = self._seen, {}
        for device_id, (count, wanted) in seen.items():
            message = f"it subscribed to {wanted!r}, which no device needs"
            _LOG.warning("misconduct device=%s count=%d reason=%s", device_id, count, message)
            code = SubscriptionExceeded.code
            self._devices.note_misconduct(device_id, code, message, count, self._clock())
