"""Memory that two processes map: one input of a model and its answer at a time.

Who may write when is told beside it; `hosted` does so by messages.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Final

import numpy as np

from agent.inference.quantization import Port, Stored

_ALIGNMENT: Final = 64


class Exchange:
    """The arrays over one mapping, in the order of the ports."""

    def __init__(self, descriptor: int, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        ports = [*inputs, *outputs]
        sizes = [-(-each.size * each.dtype.itemsize // _ALIGNMENT) * _ALIGNMENT for each in ports]
        os.ftruncate(descriptor, sum(sizes))
        shared = mmap.mmap(descriptor, sum(sizes))
        starts = [sum(sizes[:place]) for place in range(len(ports))]
        arrays: list[Stored] = [
            np.ndarray(port.shape, dtype=port.dtype, buffer=shared, offset=start)
            for port, start in zip(ports, starts, strict=True)
        ]
        self._inputs, self._outputs = arrays[: len(inputs)], arrays[len(inputs) :]

    def put(self, inputs: Sequence[Stored]) -> None:
        """Write an input."""
        for place, values in zip(self._inputs, inputs, strict=True):
            place[...] = values

    def given(self) -> list[Stored]:
        """Return a copy of the input that lies here."""
        return [each.copy() for each in self._inputs]

    def answer(self, outputs: Sequence[Stored]) -> None:
        """Write an answer."""
        for place, values in zip(self._outputs, outputs, strict=True):
            place[...] = values

    def answered(self) -> list[Stored]:
        """Return a copy of the answer that lies here."""
        return [each.copy() for each in self._outputs]
