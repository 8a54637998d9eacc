"""The gate on labels: are more of the candidate's answers wrong than of the control's? Pure.

Every verdict holds however often one looks. With enough devices on both sides arms are compared,
the device as the unit. With fewer, the labels of these devices are: that says nothing of how
devices differ, and the sentence says so. Without a control an absolute limit judges, or nothing.
"""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.gate_specs import LabelErrorsGate
from control_plane.rollouts.model import (
    Finding,
    FleetView,
    LabelCounts,
    Rollout,
    Verdict,
    phase_ends,
)
from control_plane.rollouts.statistics import (
    DEVICES_MIN,
    NON_INFERIORITY_DEVICES_MIN,
    OBSERVATIONS_MIN,
    POWER,
    Difference,
    compare,
    hits_beyond,
    lower_bound,
    upper_bound,
)

NAME: Final = "label_errors"


def judge(gate: LabelErrorsGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the labels say. The phase's size alone chooses the test, so it is one test."""
    for name, arm in (("candidate", view.candidate), ("control", view.control)):
        if not 0 <= arm.wrong <= arm.labelled:
            told = f"{arm.wrong} of {arm.labelled} labels of the {name} are wrong"
            return _finding(view, Verdict.ERROR, f"{told}: impossible counts")
    if rollout.spec.course()[rollout.watched].mode == "shadow":
        return _finding(view, None, "does not apply: in the shadow, pairs are compared")
    reached = phase_ends(rollout.spec, view.members, rollout.joined)[rollout.watched]
    alpha = rollout.gates.alpha_each
    if view.has_control and reached < view.members:
        if min(reached, view.members - reached) >= DEVICES_MIN:
            return _between_arms(gate, view, alpha)
        return _on_these_devices(gate, view, alpha)
    if gate.error_rate_max is not None:
        return _absolute(gate.error_rate_max, gate.labels_min, view, alpha)
    told = "no device is left on another model to compare with, and there is no error_rate_max"
    return _finding(view, None, f"does not apply: {told}")


def _between_arms(gate: LabelErrorsGate, view: FleetView, alpha: float) -> Finding:
    if told := _too_few(max(gate.labels_min, OBSERVATIONS_MIN), view):
        return _finding(view, Verdict.INCONCLUSIVE, told, threshold=gate.margin)
    difference = compare(view.candidate.by_device, view.control.by_device)
    if difference is None or not difference.is_testable:
        devices = (
            f"labels came from {_devices(view.candidate)} and {_devices(view.control)} devices"
        )
        told = f"{devices} of candidate and control; {DEVICES_MIN} each are needed"
        return _finding(view, Verdict.INCONCLUSIVE, told, threshold=gate.margin)
    verdict, told = _arms_verdict(gate, difference, alpha)
    arms = (
        f"the candidate errs in {view.candidate.by_device.since:.1%} on {_devices(view.candidate)} "
        f"devices, the control in {view.control.by_device.since:.1%} on {_devices(view.control)}"
    )
    has_history = view.candidate.by_device.x + view.control.by_device.x > 0
    by = "adjusted by the day before" if has_history else "with no errors before to adjust by"
    adjusted = f"{_points(difference.value)} points, {by}"
    sentence = f"{arms}; {adjusted}, {told}"
    return _finding(view, verdict, sentence, value=difference.value, threshold=gate.margin)


def _arms_verdict(
    gate: LabelErrorsGate, difference: Difference, alpha: float
) -> tuple[Verdict, str]:
    half, limit = difference.half_width(alpha), _limit(gate.margin)
    if difference.is_harm(alpha, gate.margin):
        return Verdict.FAIL, f"at least {_points(difference.value - half)}, above {limit}"
    if difference.value > gate.margin:
        return (
            Verdict.INCONCLUSIVE,
            f"above {limit}, but not shown to be{_interval(difference, half)}",
        )
    if not gate.is_non_inferiority_needed:
        effect = difference.detectable(alpha, gate.margin)
        found = f"{_points(effect)} points would have been found in {POWER:.0%} of cases"
        return Verdict.PASS, f"within {limit}; {found}"
    if difference.is_not_inferior(alpha, gate.margin):
        return Verdict.PASS, f"at most {_points(difference.value + half)}, within {limit}"
    told = f"an excess above {limit} is not excluded{_interval(difference, half)}"
    if difference.devices < NON_INFERIORITY_DEVICES_MIN:
        told += f", {NON_INFERIORITY_DEVICES_MIN} devices each are needed for that"
    return Verdict.INCONCLUSIVE, told


def _on_these_devices(gate: LabelErrorsGate, view: FleetView, alpha: float) -> Finding:
    candidate, control = view.candidate, view.control
    if told := _too_few(gate.labels_min, view):
        return _finding(view, Verdict.INCONCLUSIVE, told, threshold=gate.margin)
    excess = _rate(candidate) - _rate(control)
    verdict, told = _labels_verdict(gate, candidate, control, alpha)
    arms = f"the candidate errs in {_shown(candidate)}, the control in {_shown(control)}"
    alone = f"on these devices alone: to speak for others takes {DEVICES_MIN} an arm"
    sentence = f"{arms}; {_points(excess)} points, {told}; {alone}"
    return _finding(view, verdict, sentence, value=excess, threshold=gate.margin)


def _labels_verdict(
    gate: LabelErrorsGate, candidate: LabelCounts, control: LabelCounts, alpha: float
) -> tuple[Verdict, str]:
    # Two bounds at half of alpha each: together they miss with alpha at most.
    limit = _limit(gate.margin)
    ceiling = upper_bound(control.wrong, control.labelled, alpha / 2)
    least = lower_bound(candidate.wrong, candidate.labelled, alpha / 2) - ceiling
    if least > gate.margin:
        return Verdict.FAIL, f"at least {_points(least)}, above {limit}"
    if _rate(candidate) - _rate(control) > gate.margin:
        return (
            Verdict.INCONCLUSIVE,
            f"above {limit}, but not shown to be: at least {_points(least)}",
        )
    if gate.is_non_inferiority_needed:
        told = f"{NON_INFERIORITY_DEVICES_MIN} devices each are needed to exclude an excess"
        return Verdict.INCONCLUSIVE, f"within {limit}, but {told}"
    beyond = hits_beyond(candidate.labelled, min(ceiling + gate.margin, 1.0), alpha / 2)
    found = "no excess could have been found"
    if beyond is not None:
        found = f"{_points(beyond / candidate.labelled - _rate(control))} would have been found"
    return Verdict.PASS, f"within {limit}; {found}"


def _absolute(error_rate_max: float, labels_min: int, view: FleetView, alpha: float) -> Finding:
    arm = view.candidate
    if arm.labelled < labels_min:
        told = f"{arm.labelled} labels of the candidate; {labels_min} are needed"
        return _finding(view, Verdict.INCONCLUSIVE, told, threshold=error_rate_max)
    limit, least = f"the limit of {error_rate_max:.1%}", lower_bound(arm.wrong, arm.labelled, alpha)
    verdict, told = Verdict.PASS, f"within {limit}"
    if least > error_rate_max:
        verdict, told = Verdict.FAIL, f"at least {least:.1%}, above {limit}"
    elif _rate(arm) > error_rate_max:
        verdict = Verdict.INCONCLUSIVE
        told = f"above {limit}, but not shown to be: at least {least:.1%}"
    elif (beyond := hits_beyond(arm.labelled, error_rate_max, alpha)) is not None:
        told += f"; {beyond / arm.labelled:.1%} would have been found"
    sentence = f"no control is left; the candidate errs in {_shown(arm)}, {told}"
    return _finding(view, verdict, sentence, value=_rate(arm), threshold=error_rate_max)


def _too_few(labels_min: int, view: FleetView) -> str:
    candidate, control = view.candidate.labelled, view.control.labelled
    if min(candidate, control) >= labels_min:
        return ""
    told = f"{candidate} labels of the candidate and {control} of the control"
    return f"{told}; {labels_min} each are needed"


def _finding(
    view: FleetView,
    verdict: Verdict | None,
    told: str,
    *,
    value: float | None = None,
    threshold: float | None = None,
) -> Finding:
    return Finding(
        gate=NAME,
        verdict=verdict,
        sentence=f"{NAME}: {told}",
        value=value,
        threshold=threshold,
        samples={"candidate": view.candidate.labelled, "control": view.control.labelled},
    )


def _rate(arm: LabelCounts) -> float:
    return arm.wrong / arm.labelled if arm.labelled else 0.0


def _shown(arm: LabelCounts) -> str:
    return f"{_rate(arm):.1%} of {arm.labelled} labels"


def _devices(arm: LabelCounts) -> int:
    return arm.by_device.devices


def _points(excess: float) -> str:
    return f"{excess * 100:+.1f}"


def _limit(margin: float) -> str:
    return f"the limit of {margin * 100:.1f}"


def _interval(difference: Difference, half: float) -> str:
    return f": {_points(difference.value - half)} to {_points(difference.value + half)}"
