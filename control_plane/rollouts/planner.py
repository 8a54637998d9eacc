"""What a rollout does next: `plan`, pure, total and deterministic. The executor stores, then does.

Orders are derived from what the fleet still lacks, not from what was decided before: whatever was
decided and not done, because a process died in between, is ordered again by the next plan.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from control_plane.rollouts import gates, label_errors
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
    phase_ends,
    total,
    worst,
)


def plan(rollout: Rollout, view: FleetView, now: float) -> Plan:
    """Return what comes next at `now` (Unix seconds), the orders it needs, and why.

    `next` equals the present standing where nothing is decided; `orders` may be due all the same.
    """
    state = rollout.standing.state
    if state is RolloutState.ROLLING_BACK:
        return _roll_back(rollout, view, now)
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
    phase = rollout.standing.phase
    if not total(view.phases[: phase + 1], "revertible"):
        return ()
    end = phase_ends(rollout.spec, view.members)[phase]
    return (Order(phase=phase, first=0, end=end, action=Action.REVERT),)


def _decide(rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float) -> Plan:
    if worst(findings) is Verdict.FAIL:
        return _fail(rollout, view, findings, now)
    if rollout.standing.state is RolloutState.PAUSED:
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
    if rollout.spec.phases[phase].approval:
        approval = rollout.approval(phase)
        if approval is None:
            return _await(rollout, phase, now, *told)
        told = (*told, f"{_name(rollout, phase)} was approved by {approval.by}")
    state = PhaseState.OFFERING
    orders = _offers(rollout, view, phase)
    told = (
        *told,
        f"{_name(rollout, phase)} begins: {devices_of(view.phases[phase].planned)} to offer to",
    )
    changed = moved(rollout.standing, since=now, phase=phase, phase_state=state)
    return Plan(next=changed, orders=orders, why=told)


def _await(rollout: Rollout, phase: int, now: float, *told: str) -> Plan:
    waiting = f"{_name(rollout, phase)} waits for an approval"
    if rollout.standing.phase_state is PhaseState.AWAITING:
        return _wait(rollout, *told, waiting)
    changed = moved(rollout.standing, since=now, phase=phase, phase_state=PhaseState.AWAITING)
    return Plan(next=changed, why=(*told, waiting))


def _offer(rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float) -> Plan:
    phase = rollout.standing.phase
    own, name = view.phases[phase], _name(rollout, phase)
    if own.planned:
        told = f"{name}: offering to {devices_of(own.planned)}"
        return Plan(next=rollout.standing, orders=_offers(rollout, view, phase), why=(told,))
    if own.unfinished and not gates.is_overdue(rollout, view, now):
        timeout_s = rollout.spec.phases[phase].timeout_s
        waiting = f"waiting for {own.unfinished} of {devices_of(own.offered)}"
        told = f"{name}: {waiting}, {timeout_s:g} s at most"
        return _wait(rollout, told, *_sentences(findings))
    installs = next(finding for finding in findings if finding.gate == gates.INSTALLS)
    if own.unfinished and installs.verdict is not Verdict.PASS:
        told = f"{name}: out of time for {devices_of(own.unfinished)}"
        return _pause(rollout, told, *_sentences(findings))
    soak_s = rollout.spec.phases[phase].soak_s
    share = f"{own.finished} of {devices_of(own.offered)}"
    ended = f"{name}: ended are {share}; soaking for {soak_s:g} s"
    changed = moved(rollout.standing, since=now, phase_state=PhaseState.SOAKING)
    return Plan(next=changed, why=(ended, installs.sentence))


def _soak(rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float) -> Plan:
    phase = rollout.standing.phase
    name, soak_s = _name(rollout, phase), rollout.spec.phases[phase].soak_s
    soaked_s = now - rollout.standing.since
    if soaked_s < soak_s:
        told = f"{name}: soaked {max(soaked_s, 0):.0f} of {soak_s:g} s"
        return _wait(rollout, told, *_sentences(findings))
    missing = _missing(rollout, view, findings)
    if not missing:
        return _pass(rollout, view, findings, now)
    deadline_s = max(soak_s, _deadline_s(rollout, findings))
    if soaked_s < deadline_s:
        told = f"{name}: soaked; waiting for what is missing, {deadline_s:g} s at most"
        return _wait(rollout, told, *missing)
    return _pause(rollout, f"{name}: the deadline of {deadline_s:g} s has passed", *missing)


def _pass(rollout: Rollout, view: FleetView, findings: Sequence[Finding], now: float) -> Plan:
    phase = rollout.standing.phase
    told = (f"{_name(rollout, phase)} passed", *_sentences(findings))
    if phase + 1 < len(rollout.spec.phases):
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
    told = (f"{_name(rollout, rollout.standing.phase)} failed", *_sentences(findings))
    if rollout.spec.on_failure == "pause":
        if rollout.standing.state is RolloutState.PAUSED:
            return _wait(rollout, "paused: a person rolls it back or aborts it", *told)
        return _pause(rollout, *told)
    changed = moved(
        rollout.standing, since=now, state=RolloutState.ROLLING_BACK, phase_state=PhaseState.FAILED
    )
    reverting = f"back to the previous model: {devices_of(total(view.phases, 'revertible'))}"
    return Plan(next=changed, orders=revert_all(rollout, view), why=(*told, reverting))


def _roll_back(rollout: Rollout, view: FleetView, now: float) -> Plan:
    orders = revert_all(rollout, view)
    left = total(view.phases, "revertible") + total(view.phases, "reverting")
    reverted, stuck = total(view.phases, "reverted"), total(view.phases, "stuck")
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


def _pause(rollout: Rollout, *told: str) -> Plan:
    # The clock of the phase goes on: who was silent stays silent.
    changed = moved(rollout.standing, state=RolloutState.PAUSED)
    return Plan(next=changed, why=(*told, "paused: a person has to decide"))


def _wait(rollout: Rollout, *told: str) -> Plan:
    return Plan(next=rollout.standing, why=told)


def _offers(rollout: Rollout, view: FleetView, phase: int) -> tuple[Order, ...]:
    if not view.phases[phase].planned:
        return ()
    first, end = (0, *phase_ends(rollout.spec, view.members))[phase : phase + 2]
    return (Order(phase=phase, first=first, end=end, action=Action.OFFER),)


def _missing(rollout: Rollout, view: FleetView, findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return what keeps a soaked phase from passing."""
    passing = (Verdict.PASS, None)
    missing = [finding.sentence for finding in findings if finding.verdict not in passing]
    is_last = rollout.standing.phase + 1 == len(rollout.spec.phases)
    if is_last and (differing := total(view.phases, "differing")):
        missing.append(f"committed, but on another model by signed report: {devices_of(differing)}")
    return tuple(missing)


def _deadline_s(rollout: Rollout, findings: Sequence[Finding]) -> float:
    gate = rollout.spec.gates.label_errors
    verdicts = {finding.gate: finding.verdict for finding in findings}
    is_open = verdicts.get(label_errors.NAME) not in (None, Verdict.PASS)
    return gate.deadline_s if gate is not None and is_open else 0.0


def _sentences(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(finding.sentence for finding in findings)


def _name(rollout: Rollout, phase: int) -> str:
    return f"phase {phase + 1} of {len(rollout.spec.phases)}"
