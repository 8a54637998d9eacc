"""Maintenance windows: days and a span of minutes, in whatever local time the caller has. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

UTC_OFFSET: Final = "utc_offset_minutes"
"""The fact of the inventory that says how far a device's local time is ahead of UTC."""

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_PER_DAY: Final = 24 * 60
_EPOCH_WEEKDAY: Final = 3  # the first of January 1970 was a Thursday


class Window(NamedTuple):
    """The days, 0 for Monday, on which it begins, and minutes of the day; the end is outside."""

    days: frozenset[int]
    start: int
    end: int

    def covers(self, weekday: int, minute: int) -> bool:
        """Return whether a local time is inside; a window over midnight belongs to its first day.

        Start and end alike mean the whole day.
        """
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        if minute >= self.start:
            return weekday in self.days
        return minute < self.end and (weekday - 1) % 7 in self.days


def parse_window(text: str) -> Window:
    """Read `sat,sun 22:00-05:00`; without days it is every day. The form was checked before."""
    days, _, span = text.rpartition(" ")
    start, _, end = span.partition("-")
    chosen = days.split(",") if days else _DAYS
    return Window(frozenset(_DAYS.index(day) for day in chosen), _minutes(start), _minutes(end))


def covers_at(window: Window, now: float, utc_offset_minutes: int) -> bool:
    """Return whether `now` (Unix seconds) is inside, where local time has this offset."""
    local = int(now // 60) + utc_offset_minutes
    day, minute = divmod(local, _MINUTES_PER_DAY)
    return window.covers((_EPOCH_WEEKDAY + day) % 7, minute)


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return (int(hours) * 60 + int(minutes)) % _MINUTES_PER_DAY
