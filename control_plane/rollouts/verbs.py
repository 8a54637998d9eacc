"""What a person may do to a rollout, as pure plans.

Each verb returns a plan to be stored like the planner's own, or raises ConflictError where the
state does not allow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from control_plane.rollouts import gates
from control_plane.rollouts.model import (
    Finding,
    FleetView,
    PhaseState,
    Plan,
    Rollout,
    RolloutState,
    Verdict,
    devices_of,
    total,
)
from control_plane.rollouts.planner import moved, pass_phase, revert_all
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
    left = total(view.everybody, "offered") + total(view.everybody, "reverting")
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
        f"devices that go back to their previous model: {total(view.everybody, 'revertible')}",
    )
    return Plan(next=changed, orders=revert_all(rollout, view), why=told)


def promote(rollout: Rollout, view: FleetView, now: float, by: str) -> Plan:
    """End the present phase now: what is left of its soak, and what gates cannot say, is waived.

    No person overrules a gate that fails, an approval, or what a device says that it serves.
    """
    _require(rollout, "promoted", RolloutState.RUNNING, RolloutState.PAUSED)
    findings = gates.judge(rollout, view, now)
    if reason := _unpromotable(rollout, view, findings):
        raise ConflictError(f"rollout {rollout.id} cannot be promoted: {reason}")
    own = view.phases[rollout.standing.phase]
    told = f"promoted by {by}"
    if own.unfinished:
        told = f"{told}; not yet ended: {devices_of(own.unfinished)}"
    running = msgspec.structs.replace(rollout.standing, state=RolloutState.RUNNING)
    running_rollout = msgspec.structs.replace(rollout, standing=running)
    plan = pass_phase(running_rollout, view, findings, now, told)
    return msgspec.structs.replace(plan, findings=findings)


def _unpromotable(rollout: Rollout, view: FleetView, findings: Sequence[Finding]) -> str:
    standing = rollout.standing
    if standing.phase_state is PhaseState.AWAITING:
        return "its phase waits for an approval"
    if standing.phase_state not in (PhaseState.OFFERING, PhaseState.SOAKING):
        return f"its phase is {standing.phase_state.value}"
    if failed := [each.sentence for each in findings if each.verdict is Verdict.FAIL]:
        return "; ".join(failed)
    if planned := total(view.phases[: standing.phase + 1], "planned"):
        return f"its phase has yet to offer to {devices_of(planned)}"
    is_last = standing.phase + 1 == len(rollout.spec.course())
    if is_last and (differing := total(view.phases, "differing")):
        return f"by signed report, {devices_of(differing)} on another model"
    return ""


def retry(rollout: Rollout, view: FleetView, now: float, by: str) -> Plan:
    """Offer again to the devices that failed or rolled back; the phase begins anew with them.

    After the end, to those of the devices that came later.
    """
    if rollout.standing.state is RolloutState.COMPLETED and view.later.broken:
        again = f"devices that failed and get another offer: {view.later.broken}"
        return Plan(next=moved(rollout.standing), why=(f"retried by {by}", again), is_retry=True)
    _require(rollout, "retried", RolloutState.RUNNING, RolloutState.PAUSED)
    standing = rollout.standing
    if standing.phase_state not in (PhaseState.OFFERING, PhaseState.SOAKING):
        raise ConflictError(
            f"rollout {rollout.id} cannot be retried: its phase is {standing.phase_state.value}"
        )
    broken = total(view.phases, "broken")
    if not broken:
        raise ConflictError(f"rollout {rollout.id} cannot be retried: no device of it failed")
    changed = moved(
        standing, since=now, state=RolloutState.RUNNING, phase_state=PhaseState.OFFERING
    )
    told = (f"retried by {by}", f"devices that failed and get another offer: {broken}")
    return Plan(next=changed, why=told, is_retry=True)


VERBS: Final[dict[str, Verb]] = {
    "pause": pause,
    "resume": resume,
    "promote": promote,
    "retry": retry,
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
