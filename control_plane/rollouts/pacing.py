"""How many devices of a phase may have an offer by now: waves, and maintenance windows. Pure.

Nothing is remembered: which wave is due follows from how many devices were reached, and when last.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from control_plane.rollouts.model import FleetView, devices_of
from control_plane.rollouts.phase_specs import OfferRate, PhaseSpec
from firmware_bundles.windows import covers_at, parse_window


class Pace(NamedTuple):
    """What may be offered now, as an order has it, and why it is not all."""

    reached_max: int | None = None
    offsets: tuple[int | None, ...] | None = None
    is_due: bool = True
    why: str = ""


def pace(phase: PhaseSpec, view: FleetView, reached: int, last: float | None, now: float) -> Pace:
    """Return what may be offered at `now` (Unix seconds).

    `reached` devices of the phase had their offer, the `last` one at that time.
    """
    found = Pace()
    if phase.rate is not None:
        found = _at_rate(phase.rate, reached, last, now)
    if phase.window is None:
        return found
    window = parse_window(phase.window)
    # A device that does not say where it is has the window in its policy, and waits by itself.
    is_open = {
        offset: offset is None or covers_at(window, now, offset) for offset, _ in view.offsets
    }
    offsets = tuple(offset for offset, _ in view.offsets if is_open[offset])
    outside = sum(count for offset, count in view.offsets if not is_open[offset])
    why = found.why
    if outside:
        told = f"{devices_of(outside)} outside the window {phase.window}"
        why = f"{why}, {told}" if why else told
    return found._replace(offsets=offsets, is_due=found.is_due and bool(offsets), why=why)


def _at_rate(rate: OfferRate, reached: int, last: float | None, now: float) -> Pace:
    begun, size = wave(rate, reached)
    left_s = 0.0 if last is None or reached > begun else last + rate.per_s - now
    if left_s > 0:
        told = f"the next wave of {devices_of(size)} begins in {left_s:.0f} s"
        return Pace(reached_max=reached, is_due=False, why=told)
    return Pace(reached_max=begun + size)


def wave(rate: OfferRate, reached: int) -> tuple[int, int]:
    """Return the wave that is under way, or next, once `reached` devices had their offer.

    That is how many devices earlier waves reach in all, and how many it has itself.
    """
    limit = math.inf if rate.devices_max is None else rate.devices_max
    before, size = 0, min(float(rate.devices), limit)
    while rate.growth > 1 and size < limit and before + int(size) <= reached:
        before += int(size)
        size = min(size * rate.growth, limit)
    waves = max(reached - before, 0) // int(size)
    return before + waves * int(size), int(size)
