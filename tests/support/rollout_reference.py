"""The rules of rollouts told once more, device by device, without SQL and without ranges.

Scenarios and properties run the planner against this fleet; the store is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from control_plane.rollouts.model import (
    Action,
    Counts,
    FleetView,
    Order,
    Rollout,
    offering_phase,
    phase_ranges,
    shadows_now,
)

_GONE = ("reverting", "reverted", "superseded")
_UNFINISHED = ("waiting", "in_progress")


class Device:
    """One device of a rollout: what it was offered when, and what became of it."""

    def __init__(self, offset: int | None = None) -> None:
        self.offset = offset
        self.mode: str | None = None
        self.state = "planned"
        self.offered: float | None = None
        self.is_stuck = False


class ReferenceFleet:
    """The devices of one rollout by position."""

    def __init__(self, members: int, offsets: Sequence[int | None] = (None,)) -> None:
        self.devices = [Device(offsets[place % len(offsets)]) for place in range(members)]
        self.bytes = 0

    def phase_of(self, rollout: Rollout, position: int) -> int | None:
        """Return the phase in which a device counts: that of its shadow, or where it serves.

        Those that came after the end count beyond the last one.
        """
        members, course = len(self.devices), rollout.spec.course()
        ranges = phase_ranges(rollout.spec, members, rollout.joined)
        if position >= members - rollout.later:
            return len(course)
        serving = [index for index, phase in enumerate(course) if phase.mode == "serve"]
        for phase in (*shadows_now(rollout), *serving):
            first, end = ranges[phase]
            if first <= position < end:
                return phase
        return None

    def status(self, rollout: Rollout, position: int) -> str:
        """Return where a device stands for the rollout as it is now."""
        device = self.devices[position]
        is_left = self.phase_of(rollout, position) not in shadows_now(rollout)
        if device.mode == "shadow" and is_left and device.state not in _GONE:
            return "planned"
        return device.state

    def members_of(self, rollout: Rollout, phase: int) -> list[int]:
        """Return the positions that count in a phase."""
        return [each for each in range(len(self.devices)) if self.phase_of(rollout, each) == phase]

    def view(self, rollout: Rollout) -> FleetView:
        """Count the fleet as the planner sees it; evidence is the test's to add."""
        course = rollout.spec.course()
        phases = tuple(self._counts(rollout, phase) for phase in range(len(course)))
        every = range(len(self.devices))
        planned = [each for each in every if self.status(rollout, each) == "planned"]
        return FleetView(
            phases=phases,
            members=len(self.devices),
            later=self._counts(rollout, len(course)),
            control_devices=len(planned),
            bytes=self.bytes,
            offsets=self._offsets(rollout, planned),
        )

    def lacks(self, rollout: Rollout, order: Order, position: int) -> bool:
        """Return whether an offer is still to be made to a device, whenever that may be."""
        device = self.devices[position]
        mode = rollout.spec.course()[order.phase].mode
        is_in_range = order.first <= position < order.end
        is_shadow_only = device.mode == "shadow" and device.state not in _GONE
        is_open = device.mode is None or (mode == "serve" and is_shadow_only)
        return is_in_range and is_open

    def carry_out(self, rollout: Rollout, order: Order, now: float) -> list[int]:
        """Do an order; return the positions that it changed."""
        if order.action is Action.REVERT:
            return self._revert(order)
        mode = rollout.spec.course()[order.phase].mode
        inside = self.devices[order.first : order.end]
        reached = sum(
            each.mode == mode or (mode == "shadow" and each.mode is not None) for each in inside
        )
        changed = []
        for position, device in enumerate(self.devices):
            if order.reached_max is not None and reached >= order.reached_max:
                break
            is_allowed = order.offsets is None or device.offset in order.offsets
            if self.lacks(rollout, order, position) and is_allowed:
                device.mode, device.state, device.offered = mode, "waiting", now
                reached += 1
                changed.append(position)
        return changed

    def _revert(self, order: Order) -> list[int]:
        changed = []
        for position in range(order.first, order.end):
            device = self.devices[position]
            if device.mode is None or device.state in _GONE or device.is_stuck:
                continue
            device.state = "reverting"
            changed.append(position)
        return changed

    def _counts(self, rollout: Rollout, phase: int) -> Counts:
        inside = [
            (self.status(rollout, each), self.devices[each])
            for each in self.members_of(rollout, phase)
        ]
        values: dict[str, Any] = {}
        for status, _ in inside:
            values[status] = values.get(status, 0) + 1
        reached = [(status, each) for status, each in inside if status != "planned"]
        times = [each.offered for _, each in reached if each.offered is not None]
        open_times = [
            each.offered
            for status, each in reached
            if status in _UNFINISHED and each.offered is not None
        ]
        return Counts(
            **values,
            stuck=sum(each.is_stuck and status not in _GONE for status, each in reached),
            mirroring=sum(status == "planned" and each.mode is not None for status, each in inside),
            offered_first=min(times, default=None),
            offered_last=max(times, default=None),
            unfinished_first=min(open_times, default=None),
        )

    def _offsets(
        self, rollout: Rollout, planned: Sequence[int]
    ) -> tuple[tuple[int | None, int], ...]:
        phases = [self._counts(rollout, each) for each in range(len(rollout.spec.course()))]
        phase = offering_phase(rollout, phases)
        if rollout.spec.course()[phase].window is None:
            return ()
        here = [
            self.devices[each].offset for each in planned if self.phase_of(rollout, each) == phase
        ]
        return tuple((offset, here.count(offset)) for offset in dict.fromkeys(here))
