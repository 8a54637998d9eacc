"""A fleet that exists only in numbers: what it is offered, what becomes of it, and when. Pure.

Devices are positions; each has the state in which the store would count it. What a rollout makes of
them is the planner's.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any, Final

from control_plane.rollouts.model import Action, Counts, FleetView, Order, Rollout, stretches
from control_plane.rollouts.simulated_labels import Labels
from control_plane.rollouts.simulated_measures import Measured
from control_plane.rollouts.world import Chance, World
from firmware_bundles.windows import covers_at, parse_window

_GONE: Final = ("reverting", "reverted", "superseded")
_UNFINISHED: Final = ("waiting", "in_progress")
_ENDED: Final = ("shadowing", "committed", "differing", "failed", "rolled_back")
_HEARD_S: Final = 2.0
_LOOK_S: Final = 900.0
_LOOKS_MAX: Final = 7 * 96


class Fleet:
    """The devices of one simulated rollout."""

    def __init__(self, chance: Chance, world: World) -> None:
        self._chance = chance
        self._world = world
        self._state = ["planned"] * world.members
        self._mode: list[str | None] = [None] * world.members
        self._offered = [0.0] * world.members
        self._turn = [0] * world.members
        self._events: list[tuple[float, int, int, str, int]] = []
        self._unlabelled_s = 0.0
        self.labels = Labels(chance, world)
        self.measured = Measured(chance, world)
        self.bytes = 0
        self._fetched = [0] * world.members

    @property
    def next_event(self) -> float | None:
        """When a device changes next."""
        return self._events[0][0] if self._events else None

    def advance(self, now: float, seconds: float) -> None:
        """Let devices do what they do until `now`, `seconds` after the last call.

        Labels come together, once in an interval of reports.
        """
        self._unlabelled_s += seconds
        self.measured.pass_time(seconds)
        if self._unlabelled_s >= self._world.report_s and self._world.labels_per_h:
            self.labels.pass_time(self._unlabelled_s, self._serves)
            self._unlabelled_s = 0.0
        while self._events and self._events[0][0] <= now:
            _, position, turn, state, size = heapq.heappop(self._events)
            if turn == self._turn[position]:
                self._state[position] = state
                self.bytes += size
                self._fetched[position] += size

    def view(self, rollout: Rollout) -> FleetView:
        """Return the fleet as the planner sees it."""
        runs, course = stretches(rollout, self._world.members), rollout.spec.course()
        inside: list[list[int]] = [[] for _ in course]
        for phase, first, end in runs:
            if phase >= 0:
                inside[phase] += range(first, end)
        phases = tuple(
            self._counts(positions, course[phase].mode) for phase, positions in enumerate(inside)
        )
        planned = [place for place, state in enumerate(self._state) if state == "planned"]
        served = [place for place, mode in enumerate(self._mode) if mode is not None]
        has_labels = self._world.labels_per_h > 0
        return FleetView(
            phases=phases,
            members=self._world.members,
            control_devices=len(planned),
            candidate=self.labels.counts(served if has_labels else ()),
            control=self.labels.counts(planned if has_labels else ()),
            evidence=self.measured.evidence(rollout, served, planned),
            bytes=self.bytes,
            ended_bytes=sum(
                size
                for size, state in zip(self._fetched, self._state, strict=True)
                if state in _ENDED
            ),
            offsets=tuple(Counter(self._offset(place) for place in planned).items()),
        )

    def carry_out(self, rollout: Rollout, order: Order, now: float) -> int:
        """Do an order; return how many devices it changed."""
        changed = 0
        if order.action is Action.REVERT:
            for position in range(order.first, order.end):
                if self._mode[position] is not None and self._state[position] not in _GONE:
                    self._revert(position, now)
                    changed += 1
            return changed
        mode = rollout.spec.course()[order.phase].mode
        inside = range(order.first, order.end)
        reached = sum(self._has_had(position, mode) for position in inside)
        for position in inside:
            if order.reached_max is not None and reached >= order.reached_max:
                break
            is_allowed = order.offsets is None or self._offset(position) in order.offsets
            if is_allowed and self._lacks(position, mode):
                self._offer(rollout, position, mode, now)
                reached, changed = reached + 1, changed + 1
        return changed

    def serving(self) -> int:
        """Return how many devices serve the candidate, whatever they say of it."""
        return sum(self._serves(position) is True for position in range(self._world.members))

    def _has_had(self, position: int, mode: str) -> bool:
        own = self._mode[position]
        return own == mode or (mode == "shadow" and own is not None)

    def _lacks(self, position: int, mode: str) -> bool:
        own = self._mode[position]
        is_shadow_only = own == "shadow" and self._state[position] not in _GONE
        return own is None or (mode == "serve" and is_shadow_only)

    def _offer(self, rollout: Rollout, position: int, mode: str, now: float) -> None:
        was_fetched = self._mode[position] is not None
        self._mode[position], self._state[position] = mode, "waiting"
        self._offered[position] = now
        self._turn[position] += 1
        if self._draw(self._world.silent):
            return
        size = 0 if was_fetched else self._world.model_bytes
        begins = self._opens(rollout, position, self._heard(now))
        took_s = size / self._world.bytes_per_s + self._world.install_s
        took_s *= self._world.slow_factor if self._draw(self._world.slow) else 1.0
        policy, done = rollout.spec.policy, "shadowing" if mode == "shadow" else "committed"
        if mode == "serve" and policy.shadow is not None:
            took_s += policy.shadow.duration_s
        self._tell(position, begins, "in_progress", size)
        if self._draw(self._world.failed):
            self._tell(position, begins + took_s, "failed")
        elif mode == "serve" and self._draw(self._world.rolled_back):
            probation_s = self._chance.random() * rollout.spec.probation_s
            self._tell(position, begins + took_s + probation_s, "rolled_back")
        else:
            probation_s = rollout.spec.probation_s if mode == "serve" else 0.0
            self._tell(position, begins + took_s + probation_s, done)

    def _revert(self, position: int, now: float) -> None:
        self._state[position] = "reverting"
        self._turn[position] += 1
        if not self._draw(self._world.silent):
            self._tell(position, self._heard(now) + self._world.install_s, "reverted")

    def _tell(self, position: int, at: float, state: str, size: int = 0) -> None:
        heapq.heappush(self._events, (at, position, self._turn[position], state, size))

    def _heard(self, now: float) -> float:
        """Return when a device hears of an order: at once, or when it is back."""
        if self._draw(self._world.offline):
            return now + self._chance.expovariate(1 / self._world.offline_s)
        return now + _HEARD_S

    def _opens(self, rollout: Rollout, position: int, at: float) -> float:
        """Return when the device's own window lets it begin."""
        text = rollout.spec.policy.conditions.window
        if text is None:
            return at
        window = parse_window(text)
        looks = (at + look * _LOOK_S for look in range(_LOOKS_MAX))
        offset = self._offset(position)
        return next((look for look in looks if covers_at(window, look, offset)), at)

    def _offset(self, position: int) -> int:
        return self._world.utc_offsets[position % len(self._world.utc_offsets)]

    def _draw(self, share: float) -> bool:
        return share > 0 and self._chance.random() < share

    def _serves(self, position: int) -> bool | None:
        """Whether a device's labels are of the candidate; None while it changes."""
        state, mode = self._state[position], self._mode[position]
        if mode is None:
            return False
        return True if mode == "serve" and state in ("committed", "in_progress") else None

    def _counts(self, positions: list[int], mode: str) -> Counts:
        states = Counter[str]()
        mirroring, offered, oldest = 0, [], []
        for place in positions:
            state = self._state[place]
            if mode == "serve" and self._mode[place] == "shadow" and state not in _GONE:
                # An earlier phase left it in the shadow; to serve is still to come.
                states["planned"] += 1
                mirroring += 1
                continue
            states[state] += 1
            if self._mode[place] is not None:
                offered.append(self._offered[place])
            if state in _UNFINISHED:
                oldest.append(self._offered[place])
        counted: dict[str, Any] = dict(states)
        return Counts(
            mirroring=mirroring,
            offered_first=min(offered, default=None),
            offered_last=max(offered, default=None),
            unfinished_first=min(oldest, default=None),
            **counted,
        )
