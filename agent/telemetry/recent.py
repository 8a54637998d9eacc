"""The latest predictions of this incarnation, so that a label soon after finds its answer.

A ring of fixed size in arrays: what fell out of it is looked up in the buffer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

CAPACITY: Final = 65_536


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
        self._sequence = np.zeros(capacity, dtype=np.int64)
        self._predicted = np.zeros(capacity, dtype=np.int32)
        self._model = np.zeros(capacity, dtype=np.uint16)
        self._segment = np.zeros(capacity, dtype=np.uint8)
        self._is_labelled = np.zeros(capacity, dtype=np.bool_)
        self._values = np.zeros(capacity, dtype=np.uint64)

    def remember(self, sequence: int, model: int, predicted: int, segment: int = 0) -> None:
        """Note an answer; the oldest makes room."""
        place = sequence % self._capacity
        self._sequence[place] = sequence
        self._model[place] = model
        self._predicted[place] = predicted
        self._segment[place] = segment
        self._is_labelled[place] = False
        self._values[place] = 0

    def find(self, sequence: int) -> Answer | None:
        """Return the answer with this number, if it is still here."""
        place = sequence % self._capacity
        if self._sequence[place] != sequence:
            return None
        return Answer(
            int(self._model[place]),
            int(self._predicted[place]),
            int(self._segment[place]),
            bool(self._is_labelled[place]),
            int(self._values[place]),
        )

    def mark_told(self, sequence: int, *, is_labelled: bool, values: int) -> None:
        """Note that a label, and these business values, came."""
        place = sequence % self._capacity
        if self._sequence[place] == sequence:
            self._is_labelled[place] |= is_labelled
            self._values[place] |= np.uint64(values)
