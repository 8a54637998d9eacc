"""Runs of row numbers, joined where one follows another without a gap. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Range(NamedTuple):
    """Rows `first` to `last`, and when the latest of them came."""

    first: int
    last: int
    received: float


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Return the same rows in as few ranges as there can be, ascending."""
    found: list[Range] = []
    for each in sorted(ranges):
        if found and each.first <= found[-1].last + 1:
            before = found.pop()
            last, received = max(before.last, each.last), max(before.received, each.received)
            found.append(Range(before.first, last, received))
        else:
            found.append(each)
    return found


def holds(first: int, last: int, wanted: Sequence[int]) -> bool:
    """Say whether one of these numbers, which ascend, is among `first` to `last`."""
    return bisect_left(wanted, first) < bisect_right(wanted, last)
