"""Limits that judge the release alone, where no control is left. Pure.

Two kinds, both valid however often one looks. A share counts hits among trials: what is said holds
for these devices, and any number of them is enough. Of another quantity each device tells its mean:
what is said holds for devices like these, and takes ten.
"""

from __future__ import annotations

from control_plane.rollouts.gates.question import Question, samples_of, told
from control_plane.rollouts.model import Finding, Verdict, devices_of
from control_plane.rollouts.statistics import (
    DEVICES_MIN,
    Arm,
    hits_beyond,
    lower_bound,
    mean_of,
)

_Told = tuple[Verdict, str]


def judge(asked: Question, limit: float, arm: Arm) -> Finding:
    """Return how the candidate stands to a limit."""
    samples = samples_of(arm, Arm())
    needed = asked.observations_min
    if not arm.devices or arm.observations < needed:
        counted = f"{arm.observations} {asked.unit} of the candidate; {needed} are needed"
        return told(asked.name, Verdict.INCONCLUSIVE, counted, samples=samples)
    mean = arm.total / arm.observations if asked.is_share else arm.since
    verdict, why = _share(asked, limit, arm) if asked.is_share else _mean(asked, limit, arm)
    return told(
        asked.name,
        verdict,
        f"no control is left; {asked.level(mean)} on {devices_of(arm.devices)}, {why}",
        value=asked.level_number(mean),
        threshold=asked.level_number(limit),
        samples=samples,
    )


def _share(asked: Question, limit: float, arm: Arm) -> _Told:
    """FAIL once a share above the limit is shown; one below need not be."""
    named = f"the limit of {asked.level(limit)}"
    trials, null = arm.observations * asked.trials_each, limit / asked.trials_each
    least = lower_bound(arm.total, trials, asked.alpha)
    if least > null:
        at_least = asked.level(least * asked.trials_each)
        return Verdict.FAIL, f"at least {at_least}, above {named}"
    if arm.total > null * trials:
        return Verdict.INCONCLUSIVE, f"above {named}, but not shown to be"
    beyond = hits_beyond(trials, null, asked.alpha)
    if beyond is None:
        return Verdict.PASS, f"within {named}"
    seen = asked.level(beyond / arm.observations)
    return Verdict.PASS, f"within {named}; {seen} would have been found"


def _mean(asked: Question, limit: float, arm: Arm) -> _Told:
    """FAIL and PASS both have to be shown: between them is what too few devices cannot tell."""
    named = f"the limit of {asked.level(limit)}"
    found = mean_of(arm, tau=asked.tau)
    if found is None or found.devices < DEVICES_MIN:
        return Verdict.INCONCLUSIVE, f"{named} takes {DEVICES_MIN} devices"
    half = found.half_width(asked.alpha)
    if found.value - half > limit:
        return (
            Verdict.FAIL,
            f"{asked.least} {asked.level(found.value - half)}, {asked.beyond} {named}",
        )
    most = asked.level(found.value + half)
    if found.value + half <= limit:
        return Verdict.PASS, f"{asked.most} {most}, within {named}"
    between = f"{asked.level(found.value - half)} to {most}"
    return Verdict.INCONCLUSIVE, f"neither {asked.beyond} nor within {named} is shown: {between}"
