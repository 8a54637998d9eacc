"""What a person does to a rollout, stored: for the API and for the page alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from control_plane.rollouts import approvals
from firmware_bundles.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.api.auth import Caller
    from control_plane.rollouts.model import FleetView, Plan, Rollout
    from control_plane.store.rollouts import Rollouts

_ATTEMPTS_MAX: Final = 5


def decide(
    rollouts: Rollouts,
    rollout_id: str,
    verb: Callable[[Rollout, FleetView, float], Plan],
    clock: Callable[[], float],
    by: str,
) -> Rollout:
    """Store what a person decided; if the executor decided meanwhile, ask the verb again."""
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        rollout, now = rollouts.get(rollout_id), clock()
        decided = verb(rollout, rollouts.view(rollout), now)
        try:
            return rollouts.save(rollout, decided, now, by)
        except ConflictError:
            if attempt == _ATTEMPTS_MAX:
                raise
    raise AssertionError


def approve_phase(
    rollouts: Rollouts,
    rollout_id: str,
    phase: int | None,
    caller: Caller,
    clock: Callable[[], float],
) -> Rollout:
    """Store an approval; if somebody decided meanwhile, ask again whether there is one to give."""
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        rollout = rollouts.get(rollout_id)
        given = approvals.approve(rollout, clock(), caller.responsible, phase)
        phase = given.approval.phase  # and no later one, should somebody else approve this one
        try:
            return rollouts.approve(rollout, given.plan, given.approval, caller.actor)
        except ConflictError:
            if attempt == _ATTEMPTS_MAX:
                raise
    raise AssertionError
