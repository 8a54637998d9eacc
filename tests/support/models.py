"""Real models with one thing changed, as a converter might have made them: edits of the samples.

A field of a flatbuffer is found by the tables that lead to it (TensorFlow's schema.fbs, version 3)
and overwritten in place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from firmware_bundles import flatbuffer, operations
from firmware_bundles.flatbuffer import Table

_MANY: Final = 65_536
_BYTE_MAX: Final = 127
_STRING: Final = 5  # TensorType


def with_operation_version(model: bytes, name: str, version: int) -> bytes:
    """Return the model with another version of one of its operations."""
    data = bytearray(model)
    for code in _codes(model):
        if max(code.scalar(0, "b"), code.scalar(3, "i")) == operations.NAMES.index(name):
            struct.pack_into("<i", data, _place(code, 2), version)
    return bytes(data)


def with_operation(model: bytes, name: str, other: str) -> bytes:
    """Return the model with an operation in place of another."""
    number = operations.NAMES.index(other)
    data = bytearray(model)
    for code in _codes(model):
        if max(code.scalar(0, "b"), code.scalar(3, "i")) == operations.NAMES.index(name):
            struct.pack_into("<b", data, _place(code, 0), min(number, _BYTE_MAX))
            struct.pack_into("<i", data, _place(code, 3), number)
    return bytes(data)


def without_scales(model: bytes) -> bytes:
    """Return the model without the quantization parameters of inputs and outputs."""
    data = bytearray(model)
    for tensor in _ends(model):
        vtable = tensor.position - struct.unpack_from("<i", model, tensor.position)[0]
        struct.pack_into("<H", data, vtable + 4 + 2 * 4, 0)  # the field is not there
    return bytes(data)


def with_dynamic_batch(model: bytes) -> bytes:
    """Return the model with a batch that is settled only at run time."""
    data = bytearray(model)
    for tensor in _ends(model):
        start, _ = tensor._vector(0, _MANY)
        struct.pack_into("<i", data, start, -1)
    return bytes(data)


def with_strings(model: bytes) -> bytes:
    """Return the model with inputs and outputs of strings."""
    data = bytearray(model)
    for tensor in _ends(model):
        struct.pack_into("<b", data, _place(tensor, 1), _STRING)
    return bytes(data)


def without_weights(model: bytes) -> bytes:
    """Return the model with all weights 0: as a converter that lost the variables leaves it."""
    data = bytearray(model)
    for buffer in _root(model).tables(4, _MANY):
        start, count = buffer._vector(0, len(model))
        if count > 64:  # shapes and paddings stay
            data[start : start + count] = bytes(count)
    return bytes(data)


def _root(model: bytes) -> Table:
    return flatbuffer.root(model, b"TFL3")


def _codes(model: bytes) -> Iterator[Table]:
    return _root(model).tables(1, _MANY)


def _ends(model: bytes) -> Iterator[Table]:
    graph = next(_root(model).tables(2, _MANY))
    tensors = list(graph.tables(0, _MANY))
    for slot in (1, 2):
        for index in graph.numbers(slot, "i", _MANY):
            yield tensors[int(index)]


def _place(table: Table, slot: int) -> int:
    place = table._field(slot)
    if place is None:
        raise ValueError(f"the table has no field {slot}")
    return place


def with_custom_operation(model: bytes, name: str, custom: str) -> bytes:
    """Return the model with an operation of that name, beyond the schema, in place of another.

    The declaration is written anew at the end of the file, where the name has room.
    """
    data = bytearray(model)
    number = operations.NAMES.index("CUSTOM")
    start, count = _root(model)._vector(1, _MANY)
    for place in range(start, start + 4 * count, 4):
        code = flatbuffer._follow(model, place)
        if max(code.scalar(0, "b"), code.scalar(3, "i")) != operations.NAMES.index(name):
            continue
        data.extend(bytes(-len(data) % 4))
        table = len(data) + 12
        struct.pack_into("<I", data, place, table - place)
        text = custom.encode()
        # The fields: the code as a byte, where the name lies, the version, the code again.
        data += struct.pack("<6H", 12, 20, 4, 8, 12, 16)
        data += struct.pack("<ibxxxIii", 12, number, 12, 1, number)
        data += struct.pack("<I", len(text)) + text + b"\0"
    return bytes(data)
