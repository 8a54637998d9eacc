"""Approvals: a phase that asks for one begins when somebody else than the author lets it. Pure.

Author and approver are persons, whichever of their tokens they use.
"""

from __future__ import annotations

from typing import NamedTuple

from control_plane.rollouts.model import Approval, PhaseState, Plan, Rollout, RolloutState
from control_plane.rollouts.planner import moved
from firmware_bundles.errors import ApprovalRefused, ConflictError


class Given(NamedTuple):
    """An approval, and the decision that tells of it."""

    approval: Approval
    plan: Plan


def wanting(rollout: Rollout) -> tuple[int, ...]:
    """Return the phases, counted from 0, that still want an approval before they begin."""
    standing = rollout.standing
    has_begun = standing.phase_state not in (PhaseState.PENDING, PhaseState.AWAITING)
    return tuple(
        index
        for index, phase in enumerate(rollout.spec.course())
        if phase.approval
        and index >= standing.phase + has_begun
        and rollout.approval(index) is None
    )


def approve(rollout: Rollout, now: float, by: str, phase: int | None = None) -> Given:
    """Return `by`'s approval of a phase, counted from 0, or of the first that wants one.

    Raises ApprovalRefused if `by` started the rollout, ConflictError if nothing is to be approved.
    """
    open_ = wanting(rollout)
    if rollout.standing.state not in (RolloutState.RUNNING, RolloutState.PAUSED) or not open_:
        raise ConflictError(
            f"no phase of rollout {rollout.id} wants an approval",
            hint="A phase asks for one with `approval: true` in the rollout file.",
        )
    chosen = open_[0] if phase is None else phase
    if chosen not in open_:
        wanted = ", ".join(str(each + 1) for each in open_)
        raise ConflictError(
            f"phase {chosen + 1} of rollout {rollout.id} wants no approval; these do: {wanted}"
        )
    if by.casefold() == rollout.created_by.casefold():
        raise ApprovalRefused(
            f"{by} started rollout {rollout.id} and cannot approve it, too",
            hint="Somebody else with the role approver has to.",
        )
    told = f"phase {chosen + 1} of {len(rollout.spec.course())} was approved by {by}"
    plan = Plan(next=moved(rollout.standing), why=(told,))
    return Given(Approval(phase=chosen, by=by, at=now), plan)
