"""Whole rollouts over a simulated fleet, with the planner and the gates that decide for real. Pure.

The same seed gives the same run. What is assumed of devices stands in `world`; what comes out of
many runs is summed up here too: how long, how many bytes, how often harm is stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from control_plane.rollouts.expected import COMPARED
from control_plane.rollouts.model import (
    Approval,
    PhaseState,
    Plan,
    Rollout,
    RolloutState,
    Standing,
)
from control_plane.rollouts.planner import plan
from control_plane.rollouts.simulated_fleet import Fleet
from control_plane.rollouts.world import Chance, World

HORIZON_S: Final = 180 * 86_400.0
QUANTILES: Final = (0.1, 0.5, 0.9)
_LOOK_S_MIN: Final = 2.0
_LOOK_SHARE: Final = 0.01
"""How long changes of devices may wait for the next look: so much of the time gone by."""
_AT_ONCE_MAX: Final = 200
_ENDED: Final = frozenset(
    {
        RolloutState.PAUSED,
        RolloutState.COMPLETED,
        RolloutState.ROLLED_BACK,
        RolloutState.CANCELLED,
    }
)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One decision of a run: seconds since it began, where it led, and why."""

    at_s: float
    state: str
    phase: int
    phase_state: str
    why: tuple[str, ...]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How one simulated rollout went.

    `soaked_s` of its duration the phases soaked; `served_max` devices served the candidate at most.
    """

    state: RolloutState
    duration_s: float
    soaked_s: float
    bytes: int
    phase: int
    served_max: int
    lines: tuple[Line, ...] = ()


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Many runs: how they ended, and quantiles of what they took, each at the `QUANTILES`."""

    runs: int
    outcomes: dict[str, int]
    duration_s: tuple[float, ...]
    soaked_s: tuple[float, ...]
    bytes: tuple[float, ...]
    served_max: tuple[float, ...]
    stopped: float
    phases_stopped: dict[str, int]


def run(spec_of: Rollout, world: World, chance: Chance) -> Run:
    """Run one rollout from its creation to its end, a pause, or the horizon."""
    return _Course(spec_of, world, chance).follow()


def summarize(runs: Sequence[Run]) -> Summary:
    """Sum up runs of the same rollout in the same world."""
    stopped = [each for each in runs if each.state is not RolloutState.COMPLETED]
    return Summary(
        runs=len(runs),
        outcomes=dict(Counter(each.state.value for each in runs)),
        duration_s=_quantiles(runs, lambda each: each.duration_s),
        soaked_s=_quantiles(runs, lambda each: each.soaked_s),
        bytes=_quantiles(runs, lambda each: each.bytes),
        served_max=_quantiles(runs, lambda each: each.served_max),
        stopped=len(stopped) / len(runs),
        phases_stopped=dict(Counter(f"phase {each.phase + 1}" for each in stopped)),
    )


class _Course:
    """One run under way."""

    def __init__(self, rollout: Rollout, world: World, chance: Chance) -> None:
        self._rollout = msgspec.structs.replace(rollout, standing=Standing(), approvals=())
        self._world = world
        self._fleet = Fleet(chance, world)
        self._view = self._fleet.view(self._rollout)
        self._soaked_s = 0.0
        self._served_max = 0
        self._lines: list[Line] = []

    def follow(self) -> Run:
        """Plan, do, and wait for what comes next, until it has ended."""
        now = 0.0
        while self._decide(now) and now < HORIZON_S:
            before, now = now, self._next(now)
            if self._rollout.standing.phase_state is PhaseState.SOAKING:
                self._soaked_s += now - before
            self._fleet.advance(now, now - before)
        standing = self._rollout.standing
        return Run(
            state=standing.state,
            duration_s=now,
            soaked_s=self._soaked_s,
            bytes=self._fleet.bytes,
            phase=standing.phase,
            served_max=self._served_max,
            lines=tuple(self._lines),
        )

    def _decide(self, now: float) -> bool:
        """Plan until nothing more is to be done now; return whether it goes on."""
        for _ in range(_AT_ONCE_MAX):
            self._view = self._fleet.view(self._rollout)
            planned = plan(self._rollout, self._view, now)
            is_moved = planned.next != self._rollout.standing
            if is_moved:
                self._move(planned, now)
            changed = sum(
                self._fleet.carry_out(self._rollout, order, now) for order in planned.orders
            )
            if self._rollout.standing.state in _ENDED:
                return False
            if not is_moved and not changed:
                break
        self._served_max = max(self._served_max, self._fleet.serving())
        return True

    def _move(self, planned: Plan, now: float) -> None:
        before, after = self._rollout.standing, planned.next
        self._rollout = msgspec.structs.replace(self._rollout, standing=after)
        if after.phase_state is PhaseState.OFFERING:
            self._fleet.labels.begin()
            self._fleet.measured.begin()
        if before != after:
            self._lines.append(
                Line(
                    at_s=now,
                    state=after.state.value,
                    phase=after.phase,
                    phase_state=after.phase_state.value,
                    why=planned.why,
                )
            )

    def _next(self, now: float) -> float:
        """Return when to look again: at a device's next change, a limit's end, or a report."""
        standing, phase = self._rollout.standing, self._rollout.phase
        if standing.phase_state is PhaseState.AWAITING:
            return self._approve(now)
        last = self._view.phases[standing.phase].offered_last
        ends = [standing.since + phase.soak_s, standing.since + phase.timeout_s]
        if last is not None:
            ends.append(last + phase.timeout_s)
            ends.append(last + phase.rate.per_s if phase.rate is not None else now)
        gates = self._rollout.gates
        ends += [
            standing.since + getattr(gates, name).deadline_s
            for name in ("label_errors", *COMPARED)
            if getattr(gates, name) is not None
        ]
        due = [end for end in ends if end > now]
        if (event := self._fleet.next_event) is not None:
            wait_s = max(_LOOK_S_MIN, _LOOK_SHARE * (now - standing.since))
            due.append(max(event, now + wait_s))
        return min([*due, now + self._world.report_s])

    def _approve(self, now: float) -> float:
        phase, at = self._rollout.standing.phase, now + max(self._world.approval_s, _LOOK_S_MIN)
        approval = Approval(phase=phase, by="simulated", at=at)
        approvals = (*self._rollout.approvals, approval)
        self._rollout = msgspec.structs.replace(self._rollout, approvals=approvals)
        return at


def _quantiles(runs: Sequence[Run], value: Callable[[Run], float]) -> tuple[float, ...]:
    ordered = sorted(value(each) for each in runs)
    return tuple(ordered[round(share * (len(ordered) - 1))] for share in QUANTILES)
