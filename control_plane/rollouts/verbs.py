"""What a person may do to a rollout, as pure plans.

Each verb returns a plan to be stored like the planner's own, or raises ConflictError where the
state does not allow it.
"""

from __future__ import annotations

from typing import Final, Protocol

from control_plane.rollouts.model import (
    FleetView,
    PhaseState,
    Plan,
    Rollout,
    RolloutState,
    total,
)
from control_plane.rollouts.planner import moved, revert_all
from firmware_bundles.errors import ConflictError


class Verb(Protocol):
    """What somebody, `by` name, decides at `now` (Unix seconds)."""

    def __call__(self, rollout: Rollout, view: FleetView, now: float, /, by: str) -> Plan:
        """Return the decision as a plan. Raises ConflictError."""


def pause(rollout: Rollout, _view: FleetView, _now: float, by: str) -> Plan:
    """Hold offers. Gates go on watching: harm still rolls back."""
    _require(rollout, "paused", RolloutState.RUNNING)
    changed = moved(rollout.standing, state=RolloutState.PAUSED)
    return Plan(next=changed, why=(f"paused by {by}",))


def resume(rollout: Rollout, _view: FleetView, now: float, by: str) -> Plan:
    """Go on where it was; timeouts, soaks and deadlines of the phase begin anew."""
    _require(rollout, "resumed", RolloutState.PAUSED)
    if rollout.standing.phase_state is PhaseState.FAILED:
        raise ConflictError(
            f"rollout {rollout.id} cannot be resumed: its phase failed and went back",
            hint="Roll the rest back, or abort it; a better release takes a new rollout.",
        )
    changed = moved(rollout.standing, since=now, state=RolloutState.RUNNING)
    return Plan(next=changed, why=(f"resumed by {by}",))


def abort(rollout: Rollout, view: FleetView, now: float, by: str) -> Plan:
    """Stop for good and leave every device as it is."""
    _require(
        rollout,
        "aborted",
        RolloutState.RUNNING,
        RolloutState.PAUSED,
        RolloutState.ROLLING_BACK,
        RolloutState.ROLLING_BACK_PHASE,
    )
    changed = moved(rollout.standing, since=now, state=RolloutState.CANCELLED)
    left = total(view.phases, "offered") + total(view.phases, "reverting")
    told = (f"aborted by {by}", f"devices left as they are: {left}")
    return Plan(next=changed, why=told)


def rollback(rollout: Rollout, view: FleetView, now: float, by: str) -> Plan:
    """Send every device with an offer back to its previous model, also after the end."""
    _require(
        rollout,
        "rolled back",
        RolloutState.RUNNING,
        RolloutState.PAUSED,
        RolloutState.ROLLING_BACK_PHASE,
        RolloutState.COMPLETED,
        RolloutState.CANCELLED,
    )
    changed = moved(rollout.standing, since=now, state=RolloutState.ROLLING_BACK)
    told = (
        f"rollback asked for by {by}",
        f"devices that go back to their previous model: {total(view.phases, 'revertible')}",
    )
    return Plan(next=changed, orders=revert_all(rollout, view), why=told)


VERBS: Final[dict[str, Verb]] = {
    "pause": pause,
    "resume": resume,
    "abort": abort,
    "rollback": rollback,
}


def _require(rollout: Rollout, done: str, *states: RolloutState) -> None:
    state = rollout.standing.state
    if state not in states:
        allowed = " or ".join(each.value for each in states)
        raise ConflictError(
            f"rollout {rollout.id} is {state.value} and cannot be {done}",
            hint=f"This needs a rollout that is {allowed}.",
        )
