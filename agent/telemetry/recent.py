"""The latest predictions of this incarnation, so that a label soon after finds its answer.

A ring of fixed size, packed: what fell out of it is looked up in the buffer.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

CAPACITY: Final = 65_536
_ROW: Final = struct.Struct("<QiHB?Q")  # sequence, and an answer's fields


class Answer(NamedTuple):
    """What was predicted: by which model (index of its ModelRow), and of which segment.

    `is_labelled` says whether a label came, the bits of `values` which business values did.
    """

    model: int
    predicted: int
    segment: int
    is_labelled: bool
    values: int


class Recent:
    """Remembers the last `capacity` predictions by their sequence number."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._rows = bytearray(capacity * _ROW.size)

    def remember(self, sequence: int, model: int, predicted: int, segment: int = 0) -> None:
        """Note an answer; the oldest makes room."""
        place = sequence % self._capacity * _ROW.size
        _ROW.pack_into(self._rows, place, sequence, predicted, model, segment, False, 0)

    def find(self, sequence: int) -> Answer | None:
        """Return the answer with this number, if it is still here."""
        place = sequence % self._capacity * _ROW.size
        known, predicted, model, *rest = _ROW.unpack_from(self._rows, place)
        return Answer(model, predicted, *rest) if known == sequence else None

    def mark_told(self, sequence: int, *, is_labelled: bool, values: int) -> None:
        """Note that a label, and these business values, came."""
        if (known := self.find(sequence)) is None:
            return
        place = sequence % self._capacity * _ROW.size
        _ROW.pack_into(
            *(self._rows, place, sequence, known.predicted, known.model, known.segment),
            known.is_labelled or is_labelled,
            known.values | values,
        )
