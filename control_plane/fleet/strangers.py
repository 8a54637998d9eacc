"""Devices that say hello under a certificate of ours and are not known here.

They were enrolled after the backup from which this control plane was restored. They are refused; an
operator may enrol them anew. Kept in memory alone: who is still there says hello again.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG: Final = logging.getLogger(__name__)
STRANGERS_MAX: Final = 1_000


class Stranger(NamedTuple):
    """One of them; times are Unix seconds."""

    id: str
    first: float
    last: float
    hellos: int


class Strangers:
    """Notes who said hello and is not enrolled. Safe to use from several threads."""

    def __init__(self, exists: Callable[[str], bool], clock: Callable[[], float]) -> None:
        self._exists = exists
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, Stranger] = {}

    def note(self, device_id: str) -> None:
        """Take note of a hello that was refused; one of a revoked device is none of a stranger."""
        if self._exists(device_id):
            return
        now = self._clock()
        with self._lock:
            known = self._seen.get(device_id)
            if known is None and len(self._seen) >= STRANGERS_MAX:
                return
            first, count = (known.first, known.hellos) if known else (now, 0)
            self._seen[device_id] = Stranger(device_id, first, now, count + 1)
        if known is None:
            _LOG.warning(
                "a device is not enrolled here device=%s do=shoal device invite --device %s",
                device_id,
                device_id,
            )

    def list(self) -> list[Stranger]:
        """Return those that are still unknown, by id."""
        with self._lock:
            for device_id in [each for each in self._seen if self._exists(each)]:
                del self._seen[device_id]
            return sorted(self._seen.values())
