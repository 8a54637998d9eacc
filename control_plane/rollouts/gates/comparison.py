"""The test between arms as gates use it: when it applies, its verdict, and words for both. Pure."""

from __future__ import annotations

import math

import msgspec

from control_plane.rollouts.evidence import Arms
from control_plane.rollouts.gates import limits
from control_plane.rollouts.gates.question import Question, samples_of, told
from control_plane.rollouts.model import Finding, FleetView, Rollout, Verdict, phase_ends
from control_plane.rollouts.statistics import (
    DEVICES_MIN,
    NON_INFERIORITY_DEVICES_MIN,
    POWER,
    Difference,
    compare,
)


def judge(asked: Question, rollout: Rollout, view: FleetView, arms: Arms) -> Finding:
    """Return what the arms say, or the candidate alone where nothing is left to compare with."""
    if rollout.spec.course()[rollout.watched].mode == "shadow":
        return told(asked.name, None, "does not apply: the release does not serve yet")
    reached = phase_ends(rollout.spec, view.members, rollout.joined)[rollout.watched]
    if view.has_control and reached < view.members:
        return _whole(_between(asked, arms), view)
    if asked.limit is not None:
        return _whole(limits.judge(asked, asked.limit, arms.candidate), view)
    why = "no device is left on another model to compare with, and there is no limit"
    return told(asked.name, None, f"does not apply: {why}")


def _whole(found: Finding, view: FleetView) -> Finding:
    """Take back that all is well where retention deleted some of what says so; harm stays harm."""
    if found.gate not in view.evidence.deleted or found.verdict is Verdict.FAIL:
        return found
    gone = "retention deleted some of what came since the phase began; keep it for longer"
    return msgspec.structs.replace(
        found, verdict=Verdict.INCONCLUSIVE, sentence=f"{found.sentence}; {gone}"
    )


def _between(asked: Question, arms: Arms) -> Finding:
    candidate, control = arms
    samples = samples_of(candidate, control)
    least = min(candidate.observations, control.observations)
    if min(candidate.devices, control.devices) < DEVICES_MIN or least < asked.observations_min:
        counted = (
            f"{candidate.observations} {asked.unit} on {candidate.devices} devices of the"
            f" candidate, {control.observations} on {control.devices} of the control"
        )
        needed = f"{asked.observations_min} on {DEVICES_MIN} are needed"
        return told(asked.name, Verdict.INCONCLUSIVE, f"{counted}; {needed}", samples=samples)
    found = compare(candidate, control, tau=asked.tau, is_share=asked.is_share)
    assert found is not None, "there are enough devices for a variance"
    verdict, sentence = _verdict(asked, found)
    means = f"{asked.level(candidate.since)} on {candidate.devices} devices"
    others = f"{asked.level(control.since)} on {control.devices} of the control"
    by = "adjusted by the day before" if candidate.x or control.x else "with no day before"
    return told(
        asked.name,
        verdict,
        f"{means}, {others}; {asked.words(found.value)} {by}, {sentence}",
        value=asked.number(found.value),
        threshold=asked.number(asked.margin),
        samples=samples,
    )


def _verdict(asked: Question, found: Difference) -> tuple[Verdict, str]:
    half = found.half_width(asked.alpha)
    is_shown = found.log_likelihood_ratio(asked.margin) > math.log(1 / asked.alpha)
    limit = f"the limit of {asked.words(asked.margin)}"
    if is_shown and found.value > asked.margin:
        return (
            Verdict.FAIL,
            f"{asked.least} {asked.words(found.value - half)}, {asked.beyond} {limit}",
        )
    if found.value > asked.margin:
        between = f"{asked.words(found.value - half)} to {asked.words(found.value + half)}"
        return Verdict.INCONCLUSIVE, f"{asked.beyond} {limit}, but not shown to be: {between}"
    if asked.is_non_inferiority_needed:
        return _excluded(asked, found, half)
    effect = found.detectable(asked.alpha, asked.margin)
    seen = f"{asked.words(effect)} would have been found in {POWER:.0%} of cases"
    return Verdict.PASS, f"within {limit}; {seen}"


def _excluded(asked: Question, found: Difference, half: float) -> tuple[Verdict, str]:
    """Say whether it is shown that the candidate is not worse by more than the margin."""
    limit, most = f"the limit of {asked.words(asked.margin)}", asked.words(found.value + half)
    if found.is_not_inferior(asked.alpha, asked.margin):
        return Verdict.PASS, f"{asked.most} {most}, within {limit}"
    between = f"{asked.words(found.value - half)} to {most}"
    why = f"an excess {asked.beyond} {limit} is not excluded: {between}"
    if found.devices < NON_INFERIORITY_DEVICES_MIN:
        why += f", {NON_INFERIORITY_DEVICES_MIN} devices each are needed for that"
    return Verdict.INCONCLUSIVE, why
