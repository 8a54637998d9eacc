"""Devices that come after the end: the last completed rollout is what its cohort shall run. Pure.

A release that went through all its gates is right for a device that enrols, or matches, a day
later, too. It gets it at the pace of the last phase, within the rollout's budget, and the gate on
installs counts these devices apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from control_plane.rollouts.model import (
    Action,
    FleetView,
    Order,
    Plan,
    Rollout,
    RolloutState,
    devices_of,
)
from control_plane.rollouts.pacing import pace
from control_plane.rollouts.spec import RolloutSpec

_WHOLE: Final = 1.0


def upheld(completed: Iterable[Rollout], withdrawn: frozenset[str]) -> tuple[Rollout, ...]:
    """Return the rollouts that devices which come now belong to, of those given newest first.

    That is the last one of each family and cohort that reached the whole of it with a release
    which is not among the `withdrawn` paths; unless it is closed.
    """
    last: dict[tuple[str, str], Rollout] = {}
    for rollout in completed:
        is_done = rollout.standing.state is RolloutState.COMPLETED
        if is_done and reaches_all(rollout.spec) and rollout.release_path not in withdrawn:
            last.setdefault((rollout.spec.family, rollout.spec.cohort), rollout)
    return tuple(each for each in last.values() if not each.spec.is_closed_after)


def reaches_all(spec: RolloutSpec) -> bool:
    """Whether a rollout, once completed, has offered to the whole cohort, but a kept hold-out."""
    return spec.course()[-1].share == _WHOLE


def offer(rollout: Rollout, view: FleetView, now: float) -> Plan:
    """Return what a completed rollout does at `now` (Unix seconds) for who came after its end."""
    later = view.later
    came = f"after the end came {devices_of(later.planned + later.reached)}"
    serving = f"{later.committed} on {rollout.release_path}"
    ended = f"{came}: by signed report, {serving}, {later.broken} failed or rolled back"
    told = ("the rollout is completed", ended)
    if not later.planned:
        return Plan(next=rollout.standing, why=told)
    waiting = f"{devices_of(later.planned)} to offer to"
    if held := _held(rollout, view):
        return Plan(next=rollout.standing, why=(*told, f"{waiting}; {held}"))
    due = pace(rollout.phase, view, later.had_offer, later.offered_last, now)
    waiting = f"{waiting}; {due.why}" if due.why else waiting
    if not due.is_due:
        return Plan(next=rollout.standing, why=(*told, waiting))
    order = Order(
        phase=rollout.standing.phase,
        first=view.members - rollout.later,
        end=view.members,
        action=Action.OFFER,
        reached_max=due.reached_max,
        offsets=due.offsets,
    )
    return Plan(next=rollout.standing, orders=(order,), why=(*told, waiting))


def _held(rollout: Rollout, view: FleetView) -> str:
    """Return why no more devices get an offer; silence of one does not hold up the others."""
    later, limit = view.later, rollout.gates.installs.failed_share_max
    if later.broken > limit * later.offered:
        share = f"{later.broken} of {later.offered} failed or rolled back, above {limit:.1%}"
        return f"held: {share}; a person retries them, or rolls back"
    budget = rollout.spec.budgets.bytes_max
    if budget is not None and view.bytes >= budget:
        return f"held: {view.bytes} bytes were fetched, the budget is {budget}"
    return ""
