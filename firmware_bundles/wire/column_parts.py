"""Columns that bodies of several kinds share: row numbers, times and classes, and back. Pure.

What does not fit ends in Malformed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_bundles.errors import Malformed

if TYPE_CHECKING:
    from firmware_bundles.wire.varints import Integers

UNKNOWN: Final = -1
CLASS_MAX: Final = 2**16 - 2
SEQUENCE_MAX: Final = 2**53
TIME_MAX: Final = 2**40 - 1
WORD: Final = np.dtype("<u2")

_NONE: Final = 2**16 - 1  # how UNKNOWN is written


def ordered(sequence: Integers, time_ms: Integers) -> tuple[Integers, Integers]:
    """Return the differences of sequence (less one) and time."""
    steps = np.concatenate((sequence[:1], np.diff(sequence) - 1))
    return steps, np.concatenate((time_ms[:1], np.diff(time_ms)))


def sequence(differences: Integers, what: str) -> Integers:
    """Return row numbers, ascending from 1 at least. Raises Malformed."""
    if (differences >= SEQUENCE_MAX).any():
        raise Malformed(f"{what} have a sequence number that is too large")
    values = np.cumsum(differences) + np.arange(len(differences))
    if values[0] < 1 or values[-1] >= SEQUENCE_MAX:
        raise Malformed(f"{what} have a sequence number that cannot be")
    return values


def times(differences: Integers, what: str) -> Integers:
    """Return times in milliseconds that never fall. Raises Malformed."""
    return np.cumsum(small(differences, what))


def small(values: Integers, what: str) -> Integers:
    """Return times that a segment can span, so small that their sum is exact. Raises Malformed."""
    if (values > TIME_MAX).any():
        raise Malformed(f"{what} have a time that cannot be")
    return values


def words(values: Integers) -> bytes:
    """Return UNKNOWN or 0..CLASS_MAX as uint16, low bytes first, then high bytes."""
    found = np.where(values == UNKNOWN, _NONE, values).astype(WORD)
    return found.view(np.uint8).reshape(-1, WORD.itemsize).T.tobytes()


def classes(plain: bytes, start: int, count: int) -> Integers:
    """Undo `words`."""
    low, high = np.frombuffer(plain, np.uint8, WORD.itemsize * count, start).reshape(2, count)
    values = low.astype(np.int64) | high.astype(np.int64) << 8
    return np.where(values == _NONE, UNKNOWN, values)
