"""What a rollout does next: `plan`, pure, total and deterministic. The executor stores, then does.

Orders are derived from what the fleet still lacks, not from what was decided before: whatever was
decided and not done, because a process died in between, is ordered again by the next plan.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from control_plane.rollouts import gates, later
from control_plane.rollouts.gates import installs
from control_plane.rollouts.model import (
    Action,
    Finding,
    FleetView,
    Order,
    PhaseState,
    Plan,
    Rollout,
    RolloutState,
    Standing,
    Verdict,
    devices_of,
    offering_phase,
    phase_ranges,
    total,
    worst,
)
from control_plane.rollouts.pacing import Pace, pace


def plan(rollout: Rollout, view: FleetView, now: float) -> Plan:
    """Return what comes next at `now` (Unix seconds), the orders it needs, and why.

    `next` equals the present standing where nothing is decided; `orders` may be due all the same.
    """
    state = rollout.standing.state
    if state is RolloutState.ROLLING_BACK:
        return _roll_back(rollout, view, now)
    if state is RolloutState.ROLLING_BACK_PHASE:
        return _roll_back_phase(rollout, view, now)
    if state is RolloutState.COMPLETED and rollout.later:
        return later.offer(rollout, view, now)
    if not rollout.is_open:
        told = f"the rollout is {state.value.replace('_', ' ')}"
        return Plan(next=rollout.standing, why=(told,))
    findings = gates.judge(rollout, view, now)
    decided = _decide(rollout, view, findings, now)
    return msgspec.structs.replace(decided, findings=findings)


def moved(standing: Standing, **changes: object) -> Standing:
    """Return the standing after a decision: changed, and one generation later."""
    return msgspec.structs.replace(standing, generation=standing.generation + 1, **changes)


def revert_all(rollout: Rollout, view: FleetView) -> tuple[Order, ...]:
    """Return the order that sends every device with an offer back to its previous model."""
    if not total(view.everybody, "revertible"):
        return ()
    phase = rollout.standing.phase
    ranges = phase_ranges(rollout.spec, view.members, rollout.joined)[: phase + 1]
    end = view.members if rollout.later else max(end for _, end in ranges)
    return (Order(phase=rollout.watched, first=0, end=end, action=Action.REVERT),)


def _decide(rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float) -> Plan:
    is_paused = rollout.standing.state is RolloutState.PAUSED
    if is_paused and rollout.standing.phase_state is PhaseState.FAILED:
        told = "paused: a person rolls the rest back, or aborts it"
        return _wait(rollout, told, *_sentences(findings))
    if worst(findings) is Verdict.FAIL:
        return _fail(rollout, view, findings, now)
    if is_paused:
        told = "paused: a person resumes it, rolls it back or aborts it"
        return _wait(rollout, told, *_sentences(findings))
    match rollout.standing.phase_state:
        case PhaseState.OFFERING:
            return _offer(rollout, view, findings, now)
        case PhaseState.SOAKING:
            return _soak(rollout, view, findings, now)
        case PhaseState.AWAITING:
            return _begin(rollout, view, rollout.standing.phase, now, *_sentences(findings))
        case _:
            return _begin(rollout, view, rollout.standing.phase, now)


def _begin(rollout: Rollout, view: FleetView, phase: int, now: float, *told: str) -> Plan:
    name, described = _name(rollout, phase), rollout.spec.course()[phase]
    if described.approval:
        approval = rollout.approval(phase)
        if approval is None:
            return _await(rollout, phase, now, *told)
        told = (*told, f"{name} was approved by {approval.by}")
    first, end = phase_ranges(rollout.spec, view.members, rollout.joined)[phase]
    planned = devices_of(end - first - view.phases[phase].reached)
    what = "to offer to" if described.mode == "serve" else "to offer a shadow to"
    told = (*told, f"{name} begins: {planned} {what}")
    changed = moved(rollout.standing, since=now, phase=phase, phase_state=PhaseState.OFFERING)
    # Where pace or cost matters, the next look judges it before any offer.
    is_judged = described.rate is not None or described.window is not None
    is_judged = is_judged or rollout.spec.budgets.bytes_max is not None
    orders = () if is_judged else _offers(rollout, view, phase, Pace())
    return Plan(next=changed, orders=orders, why=told)


def _await(rollout: Rollout, phase: int, now: float, *told: str) -> Plan:
    waiting = f"{_name(rollout, phase)} waits for an approval"
    if rollout.standing.phase_state is PhaseState.AWAITING:
        return _wait(rollout, *told, waiting)
    changed = moved(rollout.standing, since=now, phase=phase, phase_state=PhaseState.AWAITING)
    return Plan(next=changed, why=(*told, waiting))


def _offer(rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float) -> Plan:
    phase, timeout_s = rollout.standing.phase, rollout.phase.timeout_s
    name, awaited = _name(rollout, phase), installs.awaited(rollout, view)
    unfinished, offered = total(awaited, "unfinished"), total(awaited, "offered")
    found = next(finding for finding in findings if finding.gate == gates.INSTALLS)
    offering = offering_phase(rollout, view.phases)
    if view.phases[offering].planned:
        return _offer_more(rollout, view, findings, now, offering)
    if unfinished and not installs.is_overdue(rollout, view, now):
        waiting = f"waiting for {unfinished} of {devices_of(offered)}"
        told = f"{name}: {waiting}, {timeout_s:g} s at most"
        return _wait(rollout, told, *_sentences(findings))
    if unfinished and found.verdict is not Verdict.PASS:
        told = f"{name}: out of time for {devices_of(unfinished)}"
        return _pause(rollout, told, *_sentences(findings))
    soak_s = rollout.phase.soak_s
    share = f"{total(awaited, 'finished')} of {devices_of(offered)}"
    ended = f"{name}: ended are {share}; soaking for {soak_s:g} s"
    changed = moved(rollout.standing, since=now, phase_state=PhaseState.SOAKING)
    return Plan(next=changed, why=(ended, found.sentence))


def _offer_more(
    rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float, phase: int
) -> Plan:
    """Offer to the devices of a phase that lack it, as far as its pace and the budget allow."""
    own, name = view.phases[phase], _name(rollout, phase)
    name = name if phase == rollout.standing.phase else f"again in {name}"
    budget = rollout.spec.budgets.bytes_max
    if budget is not None and view.bytes >= budget:
        told = f"{name}: {view.bytes} bytes were fetched, the budget is {budget}"
        return _pause(rollout, told, *_sentences(findings))
    if installs.is_held_up(rollout, view, now, phase):
        told = f"{name}: a device is silent for {rollout.phase.timeout_s:g} s; no more offers"
        return _pause(rollout, told, *_sentences(findings))
    due = pace(rollout.spec.course()[phase], view, own.had_offer, own.offered_last, now)
    if not due.is_due:
        told = f"{name}: {devices_of(own.planned)} to offer to; {due.why}"
        return _wait(rollout, told, *_sentences(findings))
    told = f"{name}: offering to {devices_of(own.planned)}"
    told = f"{told}; {due.why}" if due.why else told
    return Plan(next=rollout.standing, orders=_offers(rollout, view, phase, due), why=(told,))


def _soak(rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float) -> Plan:
    phase = rollout.standing.phase
    name, soak_s = _name(rollout, phase), rollout.phase.soak_s
    soaked_s = now - rollout.standing.since
    if soaked_s < soak_s:
        told = f"{name}: soaked {max(soaked_s, 0):.0f} of {soak_s:g} s"
        return _wait(rollout, told, *_sentences(findings))
    missing = _missing(rollout, view, findings)
    if not missing:
        return pass_phase(rollout, view, findings, now)
    deadline_s = max(soak_s, _deadline_s(rollout, findings))
    if soaked_s < deadline_s:
        told = f"{name}: soaked; waiting for what is missing, {deadline_s:g} s at most"
        return _wait(rollout, told, *missing)
    return _pause(rollout, f"{name}: the deadline of {deadline_s:g} s has passed", *missing)


def pass_phase(
    rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float, *why: str
) -> Plan:
    """Return what follows a phase that passed: the next one, or the end."""
    phase = rollout.standing.phase
    told = (*why, f"{_name(rollout, phase)} passed", *_sentences(findings))
    if phase + 1 < len(rollout.spec.course()):
        return _begin(rollout, view, phase + 1, now, *told)
    changed = moved(
        rollout.standing, since=now, state=RolloutState.COMPLETED, phase_state=PhaseState.PASSED
    )
    serving = total(view.phases, "committed")
    told = (
        *told,
        f"completed: by signed report, {devices_of(serving)} on {rollout.release_path}",
    )
    return Plan(next=changed, why=told)


def _fail(rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float) -> Plan:
    phase = rollout.watched
    told = (f"{_name(rollout, phase)} failed", *_sentences(findings))
    if rollout.spec.on_failure == "pause":
        if rollout.standing.state is RolloutState.PAUSED:
            return _wait(rollout, "paused: a person rolls it back or aborts it", *told)
        return _pause(rollout, *told)
    changed = moved(rollout.standing, since=now, phase=phase, phase_state=PhaseState.FAILED)
    is_rest_kept = total(view.phases[:phase], "offered") > 0
    if rollout.spec.on_failure == "rollback_phase" and is_rest_kept:
        changed = msgspec.structs.replace(changed, state=RolloutState.ROLLING_BACK_PHASE)
        going = view.phases[phase].revertible
        orders = _revert_phase(rollout, view, phase)
    else:
        changed = msgspec.structs.replace(changed, state=RolloutState.ROLLING_BACK)
        going = total(view.phases, "revertible")
        orders = revert_all(rollout, view)
    reverting = f"back to the previous model: {devices_of(going)}"
    return Plan(next=changed, orders=orders, why=(*told, reverting))


def _roll_back(rollout: Rollout, view: FleetView, now: float) -> Plan:
    orders = revert_all(rollout, view)
    every = view.everybody
    left = total(every, "revertible") + total(every, "reverting")
    reverted, stuck = total(every, "reverted"), total(every, "stuck")
    kept = (
        (f"left as they are, for want of a previous model: {devices_of(stuck)}",) if stuck else ()
    )
    if left:
        of = devices_of(left + reverted)
        told = f"rolling back: {left} of {of} yet to say, signed, that they are back"
        return Plan(next=rollout.standing, orders=orders, why=(told, *kept))
    changed = moved(rollout.standing, since=now, state=RolloutState.ROLLED_BACK)
    told = f"rolled back: by signed report, {devices_of(reverted)} on the previous model"
    return Plan(next=changed, why=(told, *kept))


def _roll_back_phase(rollout: Rollout, view: FleetView, now: float) -> Plan:
    phase = rollout.standing.phase
    own, name = view.phases[phase], _name(rollout, phase)
    if left := own.revertible + own.reverting:
        of = devices_of(left + own.reverted)
        told = f"{name}: {left} of {of} yet to say, signed, that they are back"
        orders = _revert_phase(rollout, view, phase)
        return Plan(next=rollout.standing, orders=orders, why=(told,))
    changed = moved(rollout.standing, since=now, state=RolloutState.PAUSED)
    back = f"{name} went back: by signed report, {devices_of(own.reverted)} on the previous model"
    kept = f"{devices_of(total(view.phases[:phase], 'offered'))} of earlier phases keep the release"
    return Plan(next=changed, why=(back, kept, "paused: a person has to decide"))


def _revert_phase(rollout: Rollout, view: FleetView, phase: int) -> tuple[Order, ...]:
    if not view.phases[phase].revertible:
        return ()
    first, end = phase_ranges(rollout.spec, view.members, rollout.joined)[phase]
    return (Order(phase=phase, first=first, end=end, action=Action.REVERT),)


def _pause(rollout: Rollout, *told: str) -> Plan:
    # The clock of the phase goes on: who was silent stays silent.
    changed = moved(rollout.standing, state=RolloutState.PAUSED)
    return Plan(next=changed, why=(*told, "paused: a person has to decide"))


def _wait(rollout: Rollout, *told: str) -> Plan:
    return Plan(next=rollout.standing, why=told)


def _offers(rollout: Rollout, view: FleetView, phase: int, due: Pace) -> tuple[Order, ...]:
    first, end = phase_ranges(rollout.spec, view.members, rollout.joined)[phase]
    size, most = end - first, due.reached_max
    if size <= view.phases[phase].reached:
        return ()
    return (
        Order(
            phase=phase,
            first=first,
            end=end,
            action=Action.OFFER,
            reached_max=None if most is None else min(most, size),
            offsets=due.offsets,
        ),
    )


def _missing(rollout: Rollout, view: FleetView, findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return what keeps a soaked phase from passing."""
    passing = (Verdict.PASS, None)
    missing = [finding.sentence for finding in findings if finding.verdict not in passing]
    is_last = rollout.standing.phase + 1 == len(rollout.spec.course())
    if is_last and (differing := total(view.phases, "differing")):
        missing.append(f"committed, but on another model by signed report: {devices_of(differing)}")
    return tuple(missing)


def _deadline_s(rollout: Rollout, findings: Sequence[Finding]) -> float:
    passing = (Verdict.PASS, None)
    missing = [finding for finding in findings if finding.verdict not in passing]
    return max((gates.deadline_s(rollout, finding) for finding in missing), default=0.0)


def _sentences(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(finding.sentence for finding in findings)


def _name(rollout: Rollout, phase: int) -> str:
    of_hold_out = " (hold-out)" if phase >= len(rollout.spec.phases) else ""
    return f"phase {phase + 1} of {len(rollout.spec.course())}{of_hold_out}"
