"""The bounded queue between the serving worker and a shadow: a ring in memory that both map.

One side puts inputs in, the other answers in place; neither ever waits, and neither makes a system
call for a row. What was there before a pause is whole after it: both sides act on counters that
they read before their last pause, so that no order of stores between processors matters.
"""

from __future__ import annotations

import mmap
import os
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.inference.quantization import Reals

BYTES_MAX: Final = 8 * 1024 * 1024
_PLACES_MAX: Final = 256
_PLACES_MIN: Final = 4
_HEAD_BYTES: Final = 64
_PUT, _ANSWERED = range(2)


class Shape(NamedTuple):
    """How long a row is: all inputs' real values, and the scores of the classes."""

    features: int
    scores: int

    @property
    def places(self) -> int:
        """How many rows may wait or be answered, and not be collected."""
        return max(_PLACES_MIN, min(_PLACES_MAX, BYTES_MAX // (4 * sum(self) + 24)))


class Ring:
    """The arrays over one mapping; `row % places` is a row's place."""

    def __init__(self, descriptor: int, shape: Shape) -> None:
        self.places = shape.places
        size = _HEAD_BYTES + self.places * (4 * sum(shape) + 16)
        os.ftruncate(descriptor, size)
        shared = mmap.mmap(descriptor, size)
        self._counters: NDArray[np.uint64] = np.ndarray(2, dtype=np.uint64, buffer=shared)
        at = _HEAD_BYTES
        self.features: Reals = np.ndarray(
            (self.places, shape.features), dtype=np.float32, buffer=shared, offset=at
        )
        at += self.features.nbytes
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
