"""Whole arrays of integers in few bytes.

Little-endian groups of seven bits (LEB128), and zigzag for signs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.errors import Malformed

Integers = NDArray[np.int64]

_GROUP_BITS = 7
_GROUP_MASK = 0x7F
_GROUPS_MAX = 9  # 63 bits: what is not negative in an int64
_FEW = 4  # so many cost less one by one than as an array


class Part(NamedTuple):
    """Numbers that were read, and where the bytes after them begin."""

    values: Integers
    end: int


def encode(values: Integers) -> bytes:
    """Return the bytes of numbers that are not negative."""
    numbers = values.astype(np.uint64)
    longest = max(1, -(-int(numbers.max(initial=0)).bit_length() // _GROUP_BITS))
    shifts = np.arange(longest, dtype=np.uint64) * np.uint64(_GROUP_BITS)
    left = numbers[:, None] >> shifts
    groups = left.astype(np.uint8) & np.uint8(_GROUP_MASK)
    is_used = left > 0
    is_used[:, 0] = True
    groups[:, :-1] |= is_used[:, 1:].view(np.uint8) << 7
    return groups[is_used].tobytes()


def decode(data: bytes, start: int, count: int, what: str) -> Part:
    """Read `count` numbers from `start` on; `what` names them in the error. Raises Malformed."""
    if count <= _FEW:
        return _decode_few(data, start, count, what)
    window = np.frombuffer(data, dtype=np.uint8, offset=min(start, len(data)))
    window = window[: count * _GROUPS_MAX]
    ends = (window <= _GROUP_MASK).nonzero()[0][:count]
    if len(ends) < count:
        raise Malformed(f"{what} is cut short: {len(ends)} of {count} numbers")
    lengths = ends.copy()
    lengths[0] += 1
    lengths[1:] -= ends[:-1]
    longest = int(lengths.max())
    if longest > _GROUPS_MAX:
        raise Malformed(f"{what} holds a number of more than 63 bits")
    used = (window[: int(ends[-1]) + 1] & _GROUP_MASK).astype(np.int64)
    # From the last group of each number to its first: most have one or two.
    values = used[ends]
    for back in range(1, longest):
        those = (lengths > back).nonzero()[0]
        values[those] = (values[those] << _GROUP_BITS) | used[ends[those] - back]
    return Part(values, start + len(used))


def _decode_few(data: bytes, start: int, count: int, what: str) -> Part:
    values: list[int] = []
    at = start
    while len(values) < count:
        value = groups = 0
        while True:
            if at >= len(data):
                raise Malformed(f"{what} is cut short: {len(values)} of {count} numbers")
            if groups == _GROUPS_MAX:
                raise Malformed(f"{what} holds a number of more than 63 bits")
            value |= (data[at] & _GROUP_MASK) << (_GROUP_BITS * groups)
            groups += 1
            at += 1
            if data[at - 1] <= _GROUP_MASK:
                break
        values.append(value)
    return Part(np.array(values, dtype=np.int64), at)


def zigzag(values: Integers) -> Integers:
    """Map numbers of either sign (below 2**62) to ones that are not negative, small to small."""
    return (values << 1) ^ (values >> 63)


def unzigzag(values: Integers) -> Integers:
    """Undo `zigzag`."""
    return (values >> 1) ^ -(values & 1)
