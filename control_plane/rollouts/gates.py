"""The gates: rules over what the fleet says, each with a verdict, its numbers and a sentence. Pure.

Both are provisional: they compare shares with fixed limits. What a verdict leads to is the
planner's affair.
"""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.model import (
    Finding,
    FleetView,
    LabelCounts,
    PhaseState,
    Rollout,
    Verdict,
    devices_of,
    total,
)
from control_plane.rollouts.spec import InstallsGate, LabelErrorsGate

INSTALLS: Final = "installs"
LABEL_ERRORS: Final = "label_errors"


def judge(rollout: Rollout, view: FleetView, now: float) -> tuple[Finding, ...]:
    """Return what every gate of the rollout finds at `now` (Unix seconds)."""
    gates = rollout.spec.gates
    findings = [_installs(gates.installs, rollout, view, is_overdue=is_overdue(rollout, view, now))]
    if gates.label_errors is not None:
        findings.append(_label_errors(gates.label_errors, view))
    return tuple(findings)


def is_overdue(rollout: Rollout, view: FleetView, now: float) -> bool:
    """Whether devices of the present phase that have not ended count as silent now.

    Time runs from the last offer, or from a later resume; while offers are still to be made it
    does not run.
    """
    standing = rollout.standing
    own = view.phases[standing.phase]
    if standing.phase_state is PhaseState.SOAKING:
        return True
    if own.planned:
        return False
    begun = max(standing.since, own.offered_last or standing.since)
    return now - begun >= rollout.spec.phases[standing.phase].timeout_s


def silent(rollout: Rollout, view: FleetView, *, is_overdue: bool) -> int:
    """Return how many devices had their time and did not say how their offer ended."""
    phase = rollout.standing.phase
    late = total(view.phases[:phase], "unfinished")
    return late + (view.phases[phase].unfinished if is_overdue else 0)


def _installs(
    gate: InstallsGate, rollout: Rollout, view: FleetView, *, is_overdue: bool
) -> Finding:
    seen = view.phases[: rollout.standing.phase + 1]
    offered, broken = total(seen, "offered"), total(seen, "broken")
    finished, quiet = total(seen, "finished"), silent(rollout, view, is_overdue=is_overdue)
    share = broken / offered if offered else 0.0
    verdict, sentence = _installs_verdict(gate, offered, broken, finished, quiet)
    return Finding(
        gate=INSTALLS,
        verdict=verdict,
        sentence=f"{INSTALLS}: {sentence}",
        value=share,
        threshold=gate.failed_share_max,
        samples={"offered": offered, "finished": finished, "broken": broken, "silent": quiet},
    )


def _installs_verdict(
    gate: InstallsGate, offered: int, broken: int, finished: int, quiet: int
) -> tuple[Verdict, str]:
    if not offered:
        return Verdict.INCONCLUSIVE, "no device has an offer yet"
    devices = devices_of(offered)
    told = f"{broken} of {devices} failed or rolled back ({broken / offered:.1%})"
    told += f", {quiet} silent" if quiet else ""
    limit = f"{gate.failed_share_max:.1%}"
    if broken > gate.failed_share_max * offered:
        return Verdict.FAIL, f"{told}, above the limit of {limit}"
    if quiet > gate.silent_share_max * offered:
        allowed = f"{gate.silent_share_max:.1%} may be"
        return Verdict.INCONCLUSIVE, f"{quiet} of {devices} silent, {allowed}"
    if pending := offered - finished - quiet:
        return Verdict.INCONCLUSIVE, f"{pending} of {devices} not yet ended"
    needed = min(gate.finished_min, offered)
    if finished < needed:
        return Verdict.INCONCLUSIVE, f"{finished} of {devices} ended, {needed} are needed"
    return Verdict.PASS, f"{told}, within the limit of {limit}"


def _label_errors(gate: LabelErrorsGate, view: FleetView) -> Finding:
    for name, arm in (("candidate", view.candidate), ("control", view.control)):
        if not 0 <= arm.wrong <= arm.labelled:
            told = (
                f"{arm.wrong} of {arm.labelled} labels of the {name} are wrong: impossible counts"
            )
            return _finding(Verdict.ERROR, told, view)
    if view.control_devices:
        return _compared(gate, view)
    if gate.error_rate_max is not None:
        return _absolute(gate.error_rate_max, gate.labels_min, view)
    told = "no device is left on another model to compare with, and there is no error_rate_max"
    return _finding(None, f"does not apply: {told}", view)


def _compared(gate: LabelErrorsGate, view: FleetView) -> Finding:
    candidate, control = view.candidate, view.control
    if min(candidate.labelled, control.labelled) < gate.labels_min:
        told = f"{candidate.labelled} labels of the candidate and {control.labelled} of the control"
        needed = f"{gate.labels_min} each are needed"
        return _finding(Verdict.INCONCLUSIVE, f"{told}; {needed}", view, threshold=gate.margin)
    excess = _rate(candidate) - _rate(control)
    is_worse = excess > gate.margin
    told = (
        f"the candidate errs in {_shown(candidate)}, the control in {_shown(control)}; "
        f"{excess * 100:+.1f} points, {_limit(is_worse=is_worse)} of {gate.margin * 100:.1f}"
    )
    verdict = Verdict.FAIL if is_worse else Verdict.PASS
    return _finding(verdict, told, view, value=excess, threshold=gate.margin)


def _absolute(error_rate_max: float, labels_min: int, view: FleetView) -> Finding:
    arm = view.candidate
    if arm.labelled < labels_min:
        told = f"{arm.labelled} labels of the candidate; {labels_min} are needed"
        return _finding(Verdict.INCONCLUSIVE, told, view, threshold=error_rate_max)
    is_worse = _rate(arm) > error_rate_max
    told = (
        f"no control is left; the candidate errs in {_shown(arm)}, "
        f"{_limit(is_worse=is_worse)} of {error_rate_max:.1%}"
    )
    verdict = Verdict.FAIL if is_worse else Verdict.PASS
    return _finding(verdict, told, view, value=_rate(arm), threshold=error_rate_max)


def _finding(
    verdict: Verdict | None,
    told: str,
    view: FleetView,
    *,
    value: float | None = None,
    threshold: float | None = None,
) -> Finding:
    return Finding(
        gate=LABEL_ERRORS,
        verdict=verdict,
        sentence=f"{LABEL_ERRORS}: {told}",
        value=value,
        threshold=threshold,
        samples={"candidate": view.candidate.labelled, "control": view.control.labelled},
    )


def _rate(arm: LabelCounts) -> float:
    return arm.wrong / arm.labelled if arm.labelled else 0.0


def _shown(arm: LabelCounts) -> str:
    return f"{_rate(arm):.1%} of {arm.labelled} labels"


def _limit(*, is_worse: bool) -> str:
    return "above the limit" if is_worse else "within the limit"
