"""The device's idea of the time, which never falls below what signed messages have proved.

A clock that begins at 1970 must not disable expiry, and one that is years ahead must not end all
updates. What is signed, and who remembers the floor over a restart, is decided elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from firmware_bundles.limits import CLOCK_SKEW_S_MAX
from firmware_bundles.trust import times

if TYPE_CHECKING:
    from collections.abc import Callable

# The day this line was written: no honest clock shows less.
BUILD_TIME: Final = 1_767_225_600.0


class Clock:
    """A source of Unix time with a floor that only rises, and goes on by itself meanwhile."""

    def __init__(
        self,
        floor: float = 0.0,
        source: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._elapsed = elapsed
        self._floor = max(floor, BUILD_TIME)
        self._since = elapsed()
        self._is_vouched = False

    def now(self) -> float:
        """Return Unix seconds: the machine's clock, or the floor where that is later.

        A clock that is years ahead of a time the director vouched for is not used.
        """
        own, floor = self._source(), self.floor()
        if self._is_vouched and times.is_broken(own, floor):
            return floor
        return max(own, floor)

    def floor(self) -> float:
        """Return the time that is certainly past: what was proved, and what has passed since."""
        return self._floor + max(0.0, self._elapsed() - self._since)

    def is_suspect(self) -> bool:
        """Return whether the machine's clock contradicts what is proved, by more than its skew."""
        own, floor = self._source(), self.floor()
        return own < floor - CLOCK_SKEW_S_MAX or (self._is_vouched and times.is_broken(own, floor))

    def raise_floor(self, proved: float, *, is_fresh: bool = False) -> float:
        """Take note of a signed time and return the proved floor.

        `is_fresh` says that it is the present, as an answer to our own nonce is, not just the past.
        """
        if is_fresh:
            self._is_vouched = True
        if proved > self.floor():
            self._floor, self._since = proved, self._elapsed()
        return self._floor
