"""The bounded queue between the serving worker and a shadow: a ring in memory that both map.

One side puts inputs in, the other answers in place; neither ever waits, and neither makes a system
call for a row. What was there before a pause is whole after it: both sides act on counters that
they read before their last pause, so that no order of stores between processors matters.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.inference.quantization import Reals, Stored

BYTES_MAX: Final = 8 * 1024 * 1024
PLACES_MAX: Final = 2048
_PLACES_MIN: Final = 4
_HEAD_BYTES: Final = 64
_PUT, _ANSWERED = range(2)

# Each look of either side is in the way of a request now and then: they are to be rare. A row is
# in the ring for four pauses at most, and at this rate there is to be a place for each.
_PAUSE_S_MAX: Final = 0.5
_PAUSE_S_MIN: Final = 0.05
_ROWS_PER_S: Final = 500


class Shape(NamedTuple):
    """How many bytes a row's inputs have, how many classes have a score, and what the inputs are.

    That is what both models store, or real values.
    """

    input_bytes: int
    scores: int
    is_stored: bool

    @property
    def places(self) -> int:
        """How many rows may wait or be answered, and not be collected."""
        row_bytes = self.input_bytes + 4 * self.scores + 24
        return max(_PLACES_MIN, min(PLACES_MAX, BYTES_MAX // row_bytes))

    @property
    def pause_s(self) -> float:
        """How long both sides pause between two looks."""
        return min(_PAUSE_S_MAX, max(_PAUSE_S_MIN, self.places / (4 * _ROWS_PER_S)))


class Ring:
    """The arrays over one mapping; `row % places` is a row's place."""

    def __init__(self, descriptor: int, shape: Shape) -> None:
        self.places = shape.places
        self.pause_s = shape.pause_s
        self.is_stored = shape.is_stored
        inputs_bytes = self.places * shape.input_bytes
        size = _HEAD_BYTES + self.places * (4 * shape.scores + 8) + inputs_bytes
        os.ftruncate(descriptor, size)
        self._shared = shared = mmap.mmap(descriptor, size)
        self._counters: NDArray[np.uint64] = np.ndarray(2, dtype=np.uint64, buffer=shared)
        at = _HEAD_BYTES
        self.scores: Reals = np.ndarray(
            (self.places, shape.scores), dtype=np.float32, buffer=shared, offset=at
        )
        at += self.scores.nbytes
        self.predicted: NDArray[np.int32] = np.ndarray(
            self.places, dtype=np.int32, buffer=shared, offset=at
        )
        at += self.predicted.nbytes
        self.latency_us: NDArray[np.uint32] = np.ndarray(
            self.places, dtype=np.uint32, buffer=shared, offset=at
        )
        at += self.latency_us.nbytes
        # Last: inputs are whatever bytes a model takes, and would put the others out of line.
        self._inputs_at, self._input_bytes = at, shape.input_bytes

    def write(self, place: int, inputs: list[Stored]) -> None:
        """Put the inputs of a row into its place, one after another."""
        at = self._inputs_at + place * self._input_bytes
        for each in inputs:
            self._shared[at : at + each.nbytes] = each.data
            at += each.nbytes

    def read(self, place: int, kinds: Sequence[tuple[np.dtype[Any], int]]) -> list[Stored]:
        """Return views of a place's inputs, in one dimension, of these types and lengths."""
        at = self._inputs_at + place * self._input_bytes
        found = []
        for dtype, count in kinds:
            found.append(np.ndarray(count, dtype=dtype, buffer=self._shared, offset=at))
            at += found[-1].nbytes
        return found

    @property
    def put(self) -> int:
        """How many rows were put in, ever."""
        return int(self._counters[_PUT])

    @put.setter
    def put(self, count: int) -> None:
        self._counters[_PUT] = count

    @property
    def answered(self) -> int:
        """How many of them have their answer."""
        return int(self._counters[_ANSWERED])

    @answered.setter
    def answered(self, count: int) -> None:
        self._counters[_ANSWERED] = count


def make() -> int:
    """Return a descriptor of memory for a ring, which a child may inherit. Raises OSError."""
    return os.memfd_create("shoal-shadow", os.MFD_CLOEXEC)
