"""The latest predictions of this incarnation, so that a label soon after finds its answer.

A ring of fixed size in arrays: what fell out of it is looked up in the buffer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

CAPACITY: Final = 65_536


class Answer(NamedTuple):
    """What was predicted: by which model (index of its ModelRow), and whether a label came."""

    model: int
    predicted: int
    is_labelled: bool


class Recent:
    """Remembers the last `capacity` predictions by their sequence number."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._sequence = np.zeros(capacity, dtype=np.int64)
        self._predicted = np.zeros(capacity, dtype=np.int32)
        self._model = np.zeros(capacity, dtype=np.uint16)
        self._is_labelled = np.zeros(capacity, dtype=np.bool_)

    def remember(self, sequence: int, model: int, predicted: int) -> None:
        """Note an answer; the oldest makes room."""
        place = sequence % self._capacity
        self._sequence[place] = sequence
        self._model[place] = model
        self._predicted[place] = predicted
        self._is_labelled[place] = False

    def find(self, sequence: int) -> Answer | None:
        """Return the answer with this number, if it is still here."""
        place = sequence % self._capacity
        if self._sequence[place] != sequence:
            return None
        return Answer(
            int(self._model[place]), int(self._predicted[place]), bool(self._is_labelled[place])
        )

    def mark_labelled(self, sequence: int) -> None:
        """Note that a label came."""
        place = sequence % self._capacity
        if self._sequence[place] == sequence:
            self._is_labelled[place] = True
