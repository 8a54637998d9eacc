"""Whether more single answers may leave now: a rate and a budget of the day. Pure but for its sums.

Windows and labels are never held back; what they take counts all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from firmware_bundles.limits import TELEMETRY_BYTES_MAX

_BURST_S: Final = 10.0


class UploadLimits(NamedTuple):
    """Bytes of telemetry that may leave; None sets no limit."""

    bytes_per_s_max: float | None = None
    bytes_per_day_max: int | None = None


class Allowance:
    """A bucket that fills with the rate, beside what was `sent_today`; times are monotonic seconds.

    `may_send_samples` says whether samples may leave at all. The bucket holds what comes in ten
    seconds, and one segment at least.
    """

    def __init__(
        self,
        limits: Callable[[], UploadLimits],
        sent_today: Callable[[], int],
        may_send_samples: Callable[[], bool] = lambda: True,
    ) -> None:
        self.may_send_samples = may_send_samples
        self._limits = limits
        self._sent_today = sent_today
        self._filled: float | None = None
        self._since = 0.0

    def permits(self, size: int, now: float) -> bool:
        """Return whether so many bytes of single answers may leave now."""
        rate, day = self._limits()
        if rate is not None:
            self._fill(rate, now)
            if self._filled is None or self._filled < size:
                return False
        return day is None or self._sent_today() + size <= day

    def sent(self, size: int, now: float) -> None:
        """Note that so many bytes of any kind left."""
        rate, _ = self._limits()
        if rate is not None:
            self._fill(rate, now)
            assert self._filled is not None, "it was filled just now"
            self._filled -= size

    def _fill(self, rate: float, now: float) -> None:
        most = max(rate * _BURST_S, 2.0 * TELEMETRY_BYTES_MAX)
        if self._filled is None:
            self._filled = most
        else:
            self._filled = min(most, self._filled + rate * (now - self._since))
        self._since = now
