"""What the page of one rollout shows, read at one moment, and what a person may do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.api.auth import Role
from control_plane.api.rollout_acts import approve_phase, decide
from control_plane.api.rollouts import RolloutDetail, detail
from control_plane.rollouts import approvals
from control_plane.rollouts.verbs import VERBS
from firmware_bundles.errors import AccessError, ConflictError, NotFound, RoleInsufficient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.api.auth import Caller
    from control_plane.rollouts.model import FleetView, Rollout
    from control_plane.store.rollout_reasons import Interval, Reason
    from control_plane.store.rollouts import Rollouts
    from control_plane.web.outlook import Outlook, Outlooks

APPROVE: Final = "approve"
POINTS_MAX: Final = 120
WIDTH_S_MIN: Final = 60.0
_ORDER: Final = (APPROVE, "resume", "pause", "promote", "retry", "abort", "rollback")
_DRASTIC: Final = ("abort", "rollback")


class Deed(NamedTuple):
    """Something that may be done now; `is_drastic` asks back, `phase` is what it is about."""

    verb: str
    means: str
    is_drastic: bool = False
    phase: int | None = None


class Trend(NamedTuple):
    """Shares of wrong labels, in percent, by interval: the candidate's and the control's."""

    times: list[float]
    candidate: list[float | None]
    control: list[float | None]


class RolloutPage(NamedTuple):
    """All that the page of a rollout shows."""

    rollout: RolloutDetail
    reasons: list[Reason]
    trend: Trend
    deeds: list[Deed]


class RolloutReader:
    """Reads one rollout for people, and does what they decide."""

    def __init__(self, rollouts: Rollouts, outlooks: Outlooks, clock: Callable[[], float]) -> None:
        self._rollouts = rollouts
        self._outlooks = outlooks
        self._clock = clock

    def read(self, rollout_id: str, caller: Caller) -> RolloutPage:
        """Return what there is to see now. Raises NotFound."""
        found, now = self._rollouts.get(rollout_id), self._clock()
        view = self._rollouts.view(found)
        return RolloutPage(
            rollout=detail(self._rollouts, found, now),
            reasons=self._rollouts.reasons(found),
            trend=self._trend(found, view, now),
            deeds=deeds(found, view, caller, now),
        )

    def outlook(self, shown: RolloutPage, caller: Caller, *, is_forecast: bool) -> Outlook | None:
        """Return what is to be said before it begins, with a forecast for who may ask for one."""
        found = self._rollouts.get(shown.rollout.id)
        is_forecast = is_forecast and caller.role.covers(Role.OPERATOR)
        return self._outlooks.find(found, shown.rollout.members, is_forecast=is_forecast)

    def act(self, rollout_id: str, verb: str, caller: Caller, phase: int | None = None) -> None:
        """Do what a person decided, who saw which `phase` an approval is for.

        Raises NotFound, AccessError, ConflictError.
        """
        needed = Role.APPROVER if verb == APPROVE else Role.OPERATOR
        if not caller.role.covers(needed):
            raise RoleInsufficient(f"{caller.name} is {caller.role.value}; this needs {needed}")
        if verb == APPROVE:
            approve_phase(self._rollouts, rollout_id, phase, caller, self._clock)
            return
        chosen = VERBS.get(verb)
        if chosen is None:
            raise NotFound(f"nothing is called {verb!r:.40} here")
        decide(
            self._rollouts,
            rollout_id,
            lambda rollout, view, now: chosen(rollout, view, now, by=caller.responsible),
            self._clock,
            caller.actor,
        )

    def _trend(self, found: Rollout, view: FleetView, now: float) -> Trend:
        firsts = [each.offered_first for each in view.phases if each.offered_first is not None]
        since = min(firsts, default=found.created)
        width_s = max((now - since) / POINTS_MAX, WIDTH_S_MIN)
        return trend(self._rollouts.labels_over_time(found, since, width_s), since, width_s)


def deeds(rollout: Rollout, view: FleetView, caller: Caller, now: float) -> list[Deed]:
    """Return what this caller may do now: the verbs themselves say so."""
    found = [verb for verb in _ORDER if _may(verb, rollout, view, caller, now)]
    return [_deed(verb, rollout) for verb in found]


def trend(intervals: Sequence[Interval], since: float, width_s: float) -> Trend:
    """Return the shares of wrong labels by interval; None where no label came."""
    shares = {
        (each.number, each.is_candidate): 100 * each.wrong / each.labelled
        for each in intervals
        if each.labelled
    }
    numbers = sorted({number for number, _ in shares})
    return Trend(
        times=[since + (number + 1) * width_s for number in numbers],
        candidate=[shares.get((number, True)) for number in numbers],
        control=[shares.get((number, False)) for number in numbers],
    )


def _may(verb: str, rollout: Rollout, view: FleetView, caller: Caller, now: float) -> bool:
    try:
        if verb == APPROVE:
            approvals.approve(rollout, now, caller.responsible)
            return caller.role.covers(Role.APPROVER)
        VERBS[verb](rollout, view, now, by=caller.responsible)
    except (ConflictError, AccessError):
        return False
    return caller.role.covers(Role.OPERATOR)


def _deed(verb: str, rollout: Rollout) -> Deed:
    if verb == APPROVE:
        phase = approvals.wanting(rollout)[0]
        return Deed(verb, f"Let phase {phase + 1} begin.", phase=phase)
    means = (VERBS[verb].__doc__ or "").partition("\n")[0]
    return Deed(verb, means, is_drastic=verb in _DRASTIC)
