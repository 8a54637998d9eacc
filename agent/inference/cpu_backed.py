"""An accelerator with the CPU behind it: whatever becomes of it, each input is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from agent.inference.backends import Backend
from agent.inference.quantization import Stored
from firmware_bundles.errors import ModelUnusable


class Accelerator(Protocol):
    """What stands before the CPU: `threaded` or `hosted`. `delegate` is its configured name."""

    delegate: str

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Return the outputs, for one caller at a time. Raises ModelUnusable, also for a hang."""

    def close(self) -> None:
        """Give it up; never waits for it."""


class CpuBacked:
    """A Backend that runs `accelerator`, and `cpu` from its first failure on.

    `on_lost(reason)` is called once, in the thread of the request that was unlucky; `lost` is the
    same reason.
    """

    def __init__(self, accelerator: Accelerator, cpu: Backend) -> None:
        self.lost = ""
        self.on_lost: Callable[[str], None] = lambda _reason: None
        self.cpu = cpu
        self.runtime = cpu.runtime
        self.delegate = accelerator.delegate
        self._accelerator = accelerator
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Return the accelerator's outputs, or the CPU's. Raises ModelUnusable when both fail."""
        with self._lock:
            if not self.lost:
                try:
                    return self._accelerator.run(inputs)
                except ModelUnusable as error:
                    self._lose(error.message)
        return self.cpu.run(inputs)

    def give_up(self, reason: str) -> None:
        """Use the CPU from now on, for a reason that somebody else found."""
        with self._lock:
            if not self.lost:
                self._lose(reason)

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self.delegate = self.cpu.delegate
        self._accelerator.close()
        self.on_lost(reason)
