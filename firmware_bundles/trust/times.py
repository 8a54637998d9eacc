"""By which time expiry is judged: own clock, proved floor, and the director's word.

Pure. The floor is a time that is certainly past, for something signed says so. Where it is kept is
the caller's affair.
"""

from __future__ import annotations

from typing import Final

from firmware_bundles.limits import CLOCK_SKEW_S_MAX

# A repository that was frozen by an attacker looks like a clock that is ahead. Only a clock that is
# ahead by more than the life of what owners sign is taken for broken.
CLOCK_AHEAD_S_MAX: Final = 366 * 86400.0


def judge(*, own: float, floor: float, vouched: float | None) -> float:
    """Return the time to judge by, in Unix seconds.

    `vouched` is the time that an answer to our own nonce carries: it is fresh, but it comes from a
    key that is online, so it never goes below the floor, and beats only a clock that is behind or
    hopelessly ahead.
    """
    trusted = max(own, floor)
    if vouched is None or vouched < floor - CLOCK_SKEW_S_MAX:
        return trusted
    is_behind = vouched > trusted
    return max(vouched, floor) if is_behind or is_broken(own, vouched) else trusted


def is_broken(own: float, vouched: float) -> bool:
    """Return whether a clock is so far ahead of what is known that it must be wrong."""
    return own > vouched + CLOCK_AHEAD_S_MAX
