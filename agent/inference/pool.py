"""Several interpreters of one model, so that it uses several cores."""

from __future__ import annotations

from collections.abc import Sequence
from queue import LifoQueue

from agent.inference.backends import Backend
from agent.inference.quantization import Stored


class Pool:
    """A backend made of equal ones; who comes when all are busy waits."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.runtime = backends[0].runtime
        self.delegate = backends[0].delegate
        # The last one used comes first: its memory is still in the cache.
        self._free: LifoQueue[Backend] = LifoQueue()
        for each in backends:
            self._free.put(each)

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Run on a free interpreter. Raises ModelUnusable."""
        backend = self._free.get()
        try:
            return backend.run(inputs)
        finally:
            self._free.put(backend)
