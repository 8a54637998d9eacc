"""What was done in a device's name that it may not: counted as it comes, stored in rounds.

Whoever did it, the device or somebody who speaks for it, an operator looks there first.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from firmware_bundles.errors import SubscriptionExceeded, TrustError, WireError
from firmware_bundles.limits import TEXT_CHARS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.store.devices import Devices
    from firmware_bundles.errors import ShoalError

_LOG: Final = logging.getLogger(__name__)
_FILTER_CHARS_MAX: Final = 120
# Names in topics are anybody's: between two rounds no more of them are remembered.
_WAITING_MAX: Final = 1_000


class Misconduct:
    """Notes subscriptions beyond what a device needs, and statements that were refused.

    `tick` stores them, one row for each device and code.
    """

    def __init__(self, devices: Devices, clock: Callable[[], float]) -> None:
        self._devices = devices
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], tuple[int, str]] = {}

    def subscribed(self, device_id: str, wanted: str) -> None:
        """Take note that a device subscribed to `wanted`; never waits for the database."""
        message = f"it subscribed to {wanted[:_FILTER_CHARS_MAX]!r}, which no device needs"
        self._note(device_id, SubscriptionExceeded.code, message)

    def refused(self, device_id: str, error: ShoalError) -> None:
        """Take note of what came in a device's name and was refused; never waits, either.

        It may be the device, or who holds the broker: its own words carry its signature.
        """
        if isinstance(error, TrustError | WireError):
            self._note(device_id, error.code, error.message[:TEXT_CHARS_MAX])

    def tick(self) -> None:
        """Store what was noted since the last round, and tell the log."""
        with self._lock:
            seen, self._seen = self._seen, {}
        for (device_id, code), (count, message) in seen.items():
            _LOG.warning(
                "misconduct device=%s code=%s count=%d reason=%s", device_id, code, count, message
            )
            self._devices.note_misconduct(device_id, code, message, count, self._clock())

    def _note(self, device_id: str, code: str, message: str) -> None:
        key = (device_id, code)
        with self._lock:
            if key in self._seen or len(self._seen) < _WAITING_MAX:
                count, _ = self._seen.get(key, (0, ""))
                self._seen[key] = (count + 1, message)
