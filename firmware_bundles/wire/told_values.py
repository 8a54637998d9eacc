"""Named business values in the body of a labels segment: which rows bring which, in fixed point.

names    for each: LEB128 length, UTF-8, one byte: the exponent of its scale plus 128
entries  LEB128: rows (first, differences), places among the names, quanta in zigzag
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from firmware_bundles import limits
from firmware_bundles.errors import Malformed
from firmware_bundles.wire import varints
from firmware_bundles.wire.varints import Integers

_WHAT: Final = "the values"
_EXPONENT_ZERO: Final = 128
_NAME_BYTES_MAX: Final = 4 * limits.TEXT_CHARS_MAX


class Values(NamedTuple):
    """Entries in order of row and name: row `row[i]` brings `quanta[i]` of `names[name[i]]`.

    A quantum of name j is 2 ** -`exponents[j]`, as the model's baseline declares it.
    """

    names: tuple[str, ...]
    exponents: tuple[int, ...]
    row: Integers
    name: Integers
    quanta: Integers

    @classmethod
    def none(cls) -> Values:
        """Return no values."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls((), (), nothing, nothing, nothing)


class Read(NamedTuple):
    """What was read, and where the bytes after it begin."""

    values: Values
    end: int


def encode_names(values: Values) -> bytes:
    """Return the table of the names."""
    table = b""
    for name, exponent in zip(values.names, values.exponents, strict=True):
        text = name.encode()
        table += varints.encode(np.array([len(text)])) + text + bytes([exponent + _EXPONENT_ZERO])
    return table


def encode_entries(values: Values) -> bytes:
    """Return the entries, which rise by row and name."""
    steps = np.diff(values.row, prepend=0)
    return varints.encode(np.concatenate((steps, values.name, varints.zigzag(values.quanta))))


def read_names(plain: bytes, start: int, count: int) -> Read:
    """Read the table of `count` names; its values have no entries yet. Raises Malformed."""
    if count > limits.VALUES_MAX:
        raise Malformed(f"{_WHAT} have {count} names; at most {limits.VALUES_MAX} are allowed")
    names: list[str] = []
    exponents: list[int] = []
    for _ in range(count):
        length, start = varints.decode(plain, start, 1, _WHAT)
        end = start + int(length[0])
        if not 0 < length[0] <= _NAME_BYTES_MAX or end >= len(plain):
            raise Malformed(f"{_WHAT} have a name that cannot be")
        try:
            names.append(plain[start:end].decode())
        except UnicodeDecodeError as error:
            raise Malformed(f"{_WHAT} have a name that is no text") from error
        exponents.append(plain[end] - _EXPONENT_ZERO)
        start = end + 1
    if len(set(names)) < count or any(abs(each) > limits.SCALE_BITS_MAX for each in exponents):
        raise Malformed(f"{_WHAT} have a name twice, or a scale that cannot be")
    return Read(Values.none()._replace(names=tuple(names), exponents=tuple(exponents)), start)


def read_entries(plain: bytes, start: int, count: int, rows: int, of: Values) -> Read:
    """Read `count` entries of `rows` rows. Raises Malformed."""
    if count > limits.VALUES_PER_SEGMENT_MAX:
        raise Malformed(f"{_WHAT} are {count}; at most {limits.VALUES_PER_SEGMENT_MAX} are allowed")
    numbers, end = varints.decode(plain, start, 3 * count, _WHAT)
    steps, name, zigzag = numbers.reshape(3, count)
    if (steps >= rows).any() or (name >= len(of.names)).any():
        raise Malformed(f"{_WHAT} name a row or a value that is not there")
    row, quanta = np.cumsum(steps), varints.unzigzag(zigzag)
    if (np.abs(quanta) > limits.QUANTUM_MAX).any():
        raise Malformed(f"{_WHAT} are beyond what counts")
    if (np.diff(row * limits.VALUES_MAX + name) < 1).any() or (row >= rows).any():
        raise Malformed(f"{_WHAT} do not rise by row and name")
    return Read(of._replace(row=row, name=name, quanta=quanta), end)
