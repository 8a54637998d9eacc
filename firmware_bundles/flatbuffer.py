"""Reading tables of a flatbuffer that may be hostile: each offset is checked before it is followed.

Only what `model_facts` needs. Layout: FlatBuffers "Internals" (tables, vtables, vectors, strings;
little-endian). Nothing is copied but what is asked for, and nothing is followed twice by itself.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from firmware_bundles.errors import ModelUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator

_VTABLE_HEADER_BYTES: Final = 4
_OFFSET_BYTES: Final = 4
_IDENTIFIER_END: Final = 8


class Table(NamedTuple):
    """A table at `position` of `data`; fields are asked for by their slot in the schema."""

    data: bytes
    position: int

    def scalar(self, slot: int, kind: str, default: int = 0) -> int:
        """Return a number stored in place; `kind` is a `struct` format character."""
        offset = self._field(slot)
        return default if offset is None else int(_unpack(self.data, kind, offset))

    def text(self, slot: int, chars_max: int) -> str:
        """Return a string, or "" where there is none."""
        offset = self._field(slot)
        if offset is None:
            return ""
        start = offset + _unpack(self.data, "I", offset)
        length = _unpack(self.data, "I", start)
        if length > chars_max:
            raise ModelUnusable(f"the model holds a name of {length} bytes, too long")
        body = _slice(self.data, start + _OFFSET_BYTES, length)
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise ModelUnusable("the model holds a name that is no UTF-8") from error

    def numbers(self, slot: int, kind: str, count_max: int) -> tuple[int | float, ...]:
        """Return a vector of numbers; empty where there is none."""
        start, count = self._vector(slot, count_max)
        body = _slice(self.data, start, count * struct.calcsize(f"<{kind}"))
        return struct.unpack(f"<{count}{kind}", body)

    def table(self, slot: int) -> Table | None:
        """Return a table that this one refers to, or None."""
        offset = self._field(slot)
        return None if offset is None else _follow(self.data, offset)

    def tables(self, slot: int, count_max: int) -> Iterator[Table]:
        """Yield the tables of a vector."""
        start, count = self._vector(slot, count_max)
        for index in range(count):
            yield _follow(self.data, start + index * _OFFSET_BYTES)

    def _vector(self, slot: int, count_max: int) -> tuple[int, int]:
        offset = self._field(slot)
        if offset is None:
            return 0, 0
        start = offset + _unpack(self.data, "I", offset)
        count = _unpack(self.data, "I", start)
        if count > count_max:
            raise ModelUnusable(f"the model holds a list of {count} items; {count_max} are allowed")
        return start + _OFFSET_BYTES, count

    def _field(self, slot: int) -> int | None:
        vtable = self.position - _unpack(self.data, "i", self.position)
        entry = _VTABLE_HEADER_BYTES + slot * 2
        if entry + 2 > _unpack(self.data, "H", vtable):
            return None
        offset = _unpack(self.data, "H", vtable + entry)
        return self.position + offset if offset else None


def root(data: bytes, identifier: bytes) -> Table:
    """Return the root table of a buffer with this file identifier. Raises ModelUnusable."""
    if data[_OFFSET_BYTES:_IDENTIFIER_END] != identifier:
        raise ModelUnusable(f"the file is no flatbuffer of kind {identifier.decode()}")
    return _follow(data, 0)


def _follow(data: bytes, offset: int) -> Table:
    return Table(data, offset + _unpack(data, "I", offset))


def _unpack(data: bytes, kind: str, offset: int) -> int:
    if offset < 0 or offset + struct.calcsize(f"<{kind}") > len(data):
        raise ModelUnusable("the model file is damaged: it refers to bytes outside of itself")
    value: int = struct.unpack_from(f"<{kind}", data, offset)[0]
    return value


def _slice(data: bytes, start: int, length: int) -> bytes:
    if start < 0 or start + length > len(data):
        raise ModelUnusable("the model file is damaged: it refers to bytes outside of itself")
    return data[start : start + length]
