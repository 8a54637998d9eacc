"""The test between arms as gates use it: when it applies, its verdict, and words for both. Pure.

Larger is worse; a gate on a quantity that should be large turns its sums around before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from control_plane.rollouts.evidence import Arms
from control_plane.rollouts.model import (
    Finding,
    FleetView,
    Rollout,
    Verdict,
    devices_of,
    phase_ends,
)
from control_plane.rollouts.statistics import (
    DEVICES_MIN,
    OBSERVATIONS_MIN,
    POWER,
    TAU_SHARE,
    Arm,
    Difference,
    compare,
    lower_bound,
)


class Question(NamedTuple):
    """What is asked of two arms.

    `margin` and `tau`, the standard deviation of the effects that are expected, are in the unit of
    the quantity; `words` tells a difference, and `level` a mean. `limit` judges where no control is
    left. `unit` is what an observation is called; with `is_bit` each device is one, of 0 or 1.
    """

    name: str
    alpha: float
    margin: float
    words: Callable[[float], str]
    level: Callable[[float], str]
    tau: float = TAU_SHARE
    is_share: bool = False
    is_bit: bool = False
    observations_min: int = OBSERVATIONS_MIN
    limit: float | None = None
    unit: str = "observations"


def judge(asked: Question, rollout: Rollout, view: FleetView, arms: Arms) -> Finding:
    """Return what the arms say, or the candidate alone where nothing is left to compare with."""
    if rollout.spec.course()[rollout.watched].mode == "shadow":
        return told(asked.name, None, "does not apply: the release does not serve yet")
    reached = phase_ends(rollout.spec, view.members, rollout.joined)[rollout.watched]
    if view.has_control and reached < view.members:
        return _between(asked, arms)
    if asked.limit is not None:
        return _absolute(asked, asked.limit, arms.candidate)
    why = "no device is left on another model to compare with, and there is no limit"
    return told(asked.name, None, f"does not apply: {why}")


def told(
    gate: str,
    verdict: Verdict | None,
    sentence: str,
    *,
    value: float | None = None,
    threshold: float | None = None,
    samples: dict[str, int] | None = None,
) -> Finding:
    """Return a finding, its sentence behind the name of the gate."""
    return Finding(
        gate=gate,
        verdict=verdict,
        sentence=f"{gate}: {sentence}",
        value=value,
        threshold=threshold,
        samples=samples or {},
    )


def _between(asked: Question, arms: Arms) -> Finding:
    candidate, control = arms
    samples = _samples(candidate, control)
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
        value=found.value,
        threshold=asked.margin,
        samples=samples,
    )


def _verdict(asked: Question, found: Difference) -> tuple[Verdict, str]:
    half = found.half_width(asked.alpha)
    is_shown = found.log_likelihood_ratio(asked.margin) > math.log(1 / asked.alpha)
    limit = f"the limit of {asked.words(asked.margin)}"
    if is_shown and found.value > asked.margin:
        return Verdict.FAIL, f"at least {asked.words(found.value - half)}, above {limit}"
    if found.value > asked.margin:
        between = f"{asked.words(found.value - half)} to {asked.words(found.value + half)}"
        return Verdict.INCONCLUSIVE, f"above {limit}, but not shown to be: {between}"
    effect = found.detectable(asked.alpha, asked.margin)
    seen = f"{asked.words(effect)} would have been found in {POWER:.0%} of cases"
    return Verdict.PASS, f"within {limit}; {seen}"


def _absolute(asked: Question, limit: float, arm: Arm) -> Finding:
    samples = _samples(arm, Arm())
    if not arm.devices or arm.observations < asked.observations_min:
        counted = f"{arm.observations} {asked.unit} of the candidate"
        needed = f"{asked.observations_min} are needed"
        return told(asked.name, Verdict.INCONCLUSIVE, f"{counted}; {needed}", samples=samples)
    verdict, where = Verdict.PASS, "within the limit"
    if arm.since > limit:
        verdict, where = Verdict.FAIL, "above the limit"
        # A few devices that all changed are no large share of a fleet.
        if asked.is_bit and lower_bound(round(arm.z), arm.devices, asked.alpha) <= limit:
            verdict, where = Verdict.INCONCLUSIVE, "not shown to be above the limit"
    return told(
        asked.name,
        verdict,
        f"no control is left; {asked.level(arm.since)} on {devices_of(arm.devices)}, {where}"
        f" of {asked.level(limit)}",
        value=arm.since,
        threshold=limit,
        samples=samples,
    )


def _samples(candidate: Arm, control: Arm) -> dict[str, int]:
    return {
        "candidate": candidate.observations,
        "candidate_devices": candidate.devices,
        "control": control.observations,
        "control_devices": control.devices,
    }
