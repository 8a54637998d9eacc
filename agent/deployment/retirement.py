"""How far a device has left the fleet: ordered to erase, erased, then free to go. Pure.

What is erased, and in which order, stands in `erasure`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from firmware_bundles.errors import AssignmentReplayed
from firmware_bundles.wire.messages import Erased, Erasure


class Phase(IntEnum):
    """Where a retirement stands; the numbers are what is kept on disk."""

    SERVING = 0
    ERASING = 1
    ERASED = 2


class Retirement(NamedTuple):
    """The newest retirement that this device has seen; `generation` is 0 before the first.

    `segments` were recorded and not delivered when they were erased, at `finished` (Unix seconds).
    """

    generation: int = 0
    phase: Phase = Phase.SERVING
    segments: int = 0
    finished: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether this device is retired: it serves nothing and takes no orders."""
        return self.phase is not Phase.SERVING


def ordered(known: Retirement, order: Erasure) -> Retirement:
    """Return the retirement that follows a signed order; the same if it says nothing new.

    Raises AssignmentReplayed for an order of before, also for one that a new enrolment ended.
    """
    is_over = order.generation == known.generation and not known.is_open
    if order.generation < known.generation or is_over:
        raise AssignmentReplayed(
            f"a retirement of generation {order.generation} came again; "
            f"this device has seen {known.generation}"
        )
    if order.generation > known.generation:
        return Retirement(generation=order.generation, phase=Phase.ERASING)
    return known


def is_released(known: Retirement, order: Erasure) -> bool:
    """Whether this is the last word: what was erased here is known to the control plane."""
    is_same = order.generation == known.generation
    return order.is_confirmed and is_same and known.phase is Phase.ERASED


def ended(known: Retirement) -> Retirement:
    """Return what a new enrolment leaves of it: the generation, so that no old order counts."""
    return Retirement(generation=known.generation)


def statement(known: Retirement) -> Erased | None:
    """Return what the reports say of it."""
    if known.phase is not Phase.ERASED:
        return None
    return Erased(generation=known.generation, time=known.finished, segments=known.segments)
