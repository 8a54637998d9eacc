"""The device's idea of the time, which never falls below what signed messages have proved.

A clock that begins at 1970 must not disable expiry. What is signed, and who remembers the floor
over a restart, is decided elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# The day this line was written: no honest clock shows less.
BUILD_TIME: Final = 1_767_225_600.0


class Clock:
    """A source of Unix time with a floor that only rises."""

    def __init__(self, floor: float = 0.0, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._floor = max(floor, BUILD_TIME)

    def now(self) -> float:
        """Return Unix seconds: the machine's clock, or the floor where that is later."""
        return max(self._source(), self._floor)

    def is_suspect(self) -> bool:
        """Return whether the machine's clock shows less than what is proved."""
        return self._source() < self._floor

    def raise_floor(self, proved: float) -> float:
        """Take note of a signed time and return the floor."""
        self._floor = max(self._floor, proved)
        return self._floor
