"""What is doubtful about a rollout before it starts: notes with severity and field. Pure.

A check never refuses: what cannot work at all is refused by `spec_rules` and `draft`. Each is a
function of what was written and what is known of the fleet; its docstring is its row of
`docs/reference/checks.md`: what it means, and what to do. How much a gate can see is in
`sensitivity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from control_plane.rollouts import sensitivity
from control_plane.rollouts.expected import Quantity, quantities
from control_plane.rollouts.gate_specs import (
    AgreementGate,
    EnergyGate,
    Gates,
    LabelErrorsGate,
    LatencyGate,
    ShadowPairsGate,
    ValueGate,
)
from control_plane.rollouts.model import devices_of, phase_ranges
from control_plane.rollouts.sensitivity import Arms
from control_plane.rollouts.spec import RolloutSpec
from control_plane.rollouts.statistics import DEVICES_MIN, NON_INFERIORITY_DEVICES_MIN

FIRST_SHARE_MAX: Final = 0.05
FIRST_DEVICES_MAX: Final = 10
"""So many devices may always be first: 5 % of a small cohort would be nobody."""
REPORT_S: Final = 900.0
"""How often devices report and seal what they measured, unless they were told otherwise."""
FAILED_SHARE_MAX: Final = 0.25
OFFERING_S_MAX: Final = 14 * 86_400.0
DAY_S: Final = 86_400.0
PREDICTIONS_PER_S: Final = 1.0
"""What a device is assumed to answer."""

_OPTIONAL_GATES: Final = tuple(
    name for name in Gates.__struct_fields__ if name not in ("alpha", "installs", "traffic")
)


class Severity(StrEnum):
    """How much a note weighs: a warning is a refusal where somebody is strict."""

    WARNING = "warning"
    NOTE = "note"


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of those a rollout is for: how many devices, and what each would fetch.

    `unknown` devices do not say what their interpreter can do, `served` serve a model of the family
    (None: not looked up). A watch over a device is sure of its input after `watched_rows`
    predictions and `watched_s`, at the earliest (0: nothing is watched).
    """

    members: int
    model_bytes: int = 0
    unknown: int = 0
    report_s: float = REPORT_S
    served: int | None = None
    watched_rows: int = 0
    watched_s: float = 0.0


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One doubt: about which field of the file, and in a sentence with the numbers."""

    code: str
    severity: Severity
    field: str
    sentence: str


class Doubt(NamedTuple):
    """What a check found, at a place like `phases[0].soak_s`."""

    field: str
    sentence: str


class Check(NamedTuple):
    """One check; what it means and what to do stands in the function's docstring."""

    code: str
    severity: Severity
    find: Callable[[RolloutSpec, Fleet], Iterator[Doubt]]


def check(spec: RolloutSpec, fleet: Fleet) -> tuple[Note, ...]:
    """Return what is doubtful, warnings first."""
    found = [
        Note(code=each.code, severity=each.severity, field=doubt.field, sentence=doubt.sentence)
        for each in CHECKS
        for doubt in each.find(spec, fleet)
    ]
    return tuple(sorted(found, key=lambda note: list(Severity).index(note.severity)))


def _first_large(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """The first phase that serves reaches more than 5 % of the cohort, and more than 10 devices.

    Put a smaller phase before it: what is wrong with a release is found by whoever has it first.
    """
    index = next(index for index, each in enumerate(spec.phases) if each.mode == "serve")
    first, end = phase_ranges(spec, fleet.members)[index]
    size = end - first
    is_all = size == fleet.members and size > 1
    if is_all or size > max(FIRST_SHARE_MAX * fleet.members, FIRST_DEVICES_MAX):
        told = f"{size} of {devices_of(fleet.members)} are first to serve the release"
        yield Doubt(f"phases[{index}]", told)


def _soak_short(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A phase soaks for less time than passes between two reports of a device.

    Soak for at least one interval: before it is over most devices have said nothing new.
    """
    for index, phase in enumerate(spec.phases):
        if phase.soak_s < fleet.report_s:
            told = f"soaks for {phase.soak_s:g} s; devices report every {fleet.report_s:g} s"
            yield Doubt(f"phases[{index}].soak_s", told)


def _deadline_short(spec: RolloutSpec, _fleet: Fleet) -> Iterator[Doubt]:
    """A gate's deadline for labels is over before the soak is: it never gives more time.

    Set the deadline above the soak, by as long as labels may be late.
    """
    for index, phase in enumerate(spec.phases):
        gate = phase.gates.over(spec.gates).label_errors
        if gate is not None and gate.deadline_s < phase.soak_s:
            told = f"ends {gate.deadline_s:g} s after the soak began, which takes {phase.soak_s:g}"
            yield Doubt(f"{_gate_place(spec, index)}.deadline_s", told)


def _timeout_short(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A device that does all it is told, as fast as it can, is still counted as silent.

    Raise the timeout above self-test, shadow, probation and one interval of reports together.
    """
    shadow = spec.policy.shadow
    needed_s = spec.policy.self_test_s_max + (shadow.duration_s if shadow else 0.0)
    needed_s += spec.probation_s
    for index, phase in enumerate(spec.phases):
        if phase.timeout_s < needed_s:
            told = f"after {phase.timeout_s:g} s a device is silent; it needs up to {needed_s:g} s"
            yield Doubt(f"phases[{index}].timeout_s", told)
        elif spec.policy.conditions.window is not None and phase.timeout_s < DAY_S:
            told = f"after {phase.timeout_s:g} s a device is silent; it updates once a day"
            yield Doubt(f"phases[{index}].timeout_s", told)
        elif fleet.report_s > phase.timeout_s:
            told = f"after {phase.timeout_s:g} s a device is silent, a report may take longer"
            yield Doubt(f"phases[{index}].timeout_s", told)


def _power_missing(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A gate may pass a phase although an excess of twice its margin would not have been found.

    Ask for more labels (labels_min), let the phase reach more devices, or widen the margin.
    """
    for index, gate, arms in _label_gates(spec, fleet):
        if not arms.can_compare:
            continue
        alpha = spec.phases[index].gates.over(spec.gates).alpha_each
        wanted = sensitivity.wanted(gate.margin)
        found = sensitivity.found(gate, arms, alpha)
        if found is None or found > wanted:
            needed = sensitivity.labels_needed(gate, arms, alpha)
            what = "nothing" if found is None else f"an excess of {_points(found)} points"
            told = (
                f"with {gate.labels_min} labels an arm {what} would be found; {_points(wanted)} "
                f"must be, which takes {needed} labels an arm"
            )
            yield Doubt(f"{_gate_place(spec, index)}.labels_min", told)


def _effect_missed(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A gate on latency, errors, crashes, drift or energy may pass an excess of twice its margin.

    Let the phase reach more devices, keep more as controls, or widen the margin.
    """
    for index, asked, arms in _compared(spec, fleet):
        if arms.devices < DEVICES_MIN:
            continue
        alpha = spec.phases[index].gates.over(spec.gates).alpha_each
        found = sensitivity.found_between(asked, arms, alpha)
        if found > asked.wanted:
            needed = sensitivity.devices_needed(asked, alpha)
            told = (
                f"{asked.gate}: with {arms.candidate} and {arms.control} devices "
                f"{asked.words(found)} would be found; {asked.words(asked.wanted)} must be, which "
                f"takes about {needed} devices an arm"
            )
            yield Doubt(f"phases[{index}]", told)


def _never_judges(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A gate between arms waits for 10 devices on each side that its phase never has.

    It stays inconclusive, and the rollout pauses at the gate's deadline. The same holds for limits
    on latency, energy and values where no control is left. Let the phase reach more devices, keep
    more as controls, or leave the gate out of this phase (null).
    """
    for index, asked, arms in _compared(spec, fleet):
        if arms.can_compare and arms.devices < DEVICES_MIN:
            told = f"{asked.gate}: {arms.candidate} and {arms.control} devices; "
            yield Doubt(f"phases[{index}]", f"{told}{DEVICES_MIN} an arm are needed")
    for index, arms in _serving(spec, fleet):
        is_alone = arms.control == 0 or fleet.served == 0
        if is_alone and arms.candidate < DEVICES_MIN:
            told = f"a limit on a mean takes {DEVICES_MIN} devices, and there are {arms.candidate}"
            places = [place for place, gate in _comparing(spec, index) if _limits_a_mean(gate)]
            yield from (Doubt(place, f"phases[{index}]: {told}") for place in places)


def _limits_a_mean(gate: object) -> bool:
    match gate:
        case LatencyGate(latency_ms_max=limit) | EnergyGate(watts_max=limit):
            return limit is not None
        case ValueGate(limit=limit):
            return limit is not None
    return False


def _margin_zero(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A gate between arms has a margin of 0: just as good a release is above it half of the time.

    It is not stopped, but may wait until the gate's deadline, and then pause. Grant a margin.
    """
    for index, asked, arms in _compared(spec, fleet):
        if arms.devices >= DEVICES_MIN and not asked.margin:
            yield Doubt(f"phases[{index}]", f"{asked.gate}: the margin is 0")


def _few_devices(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A phase has fewer than 10 devices on a side: its labels speak for these devices alone.

    Harm is found all the same; that others will fare alike takes 10 devices an arm.
    """
    for index, _gate, arms in _label_gates(spec, fleet):
        if arms.can_compare and arms.devices < DEVICES_MIN:
            told = f"{arms.candidate} and {arms.control} devices; {DEVICES_MIN} an arm are needed"
            yield Doubt(f"phases[{index}]", told)


def _cannot_exclude(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A phase can never pass: to exclude an excess takes 20 devices on each side.

    Let the phase reach more devices, keep more as controls, or do not ask for non-inferiority.
    """
    for index, arms in _serving(spec, fleet):
        if not 0 < arms.devices < NON_INFERIORITY_DEVICES_MIN:
            continue
        told = f"{arms.candidate} and {arms.control} devices; "
        told += f"{NON_INFERIORITY_DEVICES_MIN} an arm are needed"
        for place, gate in _comparing(spec, index):
            if getattr(gate, "is_non_inferiority_needed", False):
                yield Doubt(f"{place}.is_non_inferiority_needed", told)


def _no_control(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A phase leaves no device on the previous model, so a gate that compares does not apply.

    Keep controls (hold_out), or set the gate's limit (error_rate_max and the like), which judges
    without them.
    """
    for index, gate, arms in _label_gates(spec, fleet):
        if not arms.can_compare and gate.error_rate_max is None:
            told = "no device is left to compare with, and there is no error_rate_max"
            yield Doubt(_gate_place(spec, index), told)
    for index, asked, arms in _compared(spec, fleet):
        if not arms.can_compare and not asked.has_limit:
            told = f"{asked.gate}: no device is left to compare with, and there is no limit"
            yield Doubt(f"phases[{index}]", told)


def _answers_unwatched(spec: RolloutSpec, _fleet: Fleet) -> Iterator[Doubt]:
    """No gate looks at what the release answers: it counts only whether it can be installed.

    Add a gate on labels (gates.label_errors).
    """
    for index, phase in enumerate(spec.phases):
        gates = phase.gates.over(spec.gates)
        if not any(getattr(gates, name) for name in _OPTIONAL_GATES):
            yield Doubt(f"phases[{index}].gates", "only installs are judged")


def _failures_allowed(spec: RolloutSpec, _fleet: Fleet) -> Iterator[Doubt]:
    """A phase passes although more than a quarter of its devices failed or rolled back.

    Lower failed_share_max; the default is 5 %.
    """
    for index, phase in enumerate(spec.phases):
        limit = phase.gates.over(spec.gates).installs.failed_share_max
        if limit > FAILED_SHARE_MAX:
            yield Doubt(f"phases[{index}].gates.installs", f"{limit:.0%} of devices may fail")


def _budget_exceeded(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """The rollout's budget of bytes is used up before every device has the release.

    Raise budgets.bytes_max. Patches may need less than was reckoned here: a full download each.
    """
    budget = spec.budgets.bytes_max
    reached = max(end for _, end in phase_ranges(spec, fleet.members))
    if budget is not None and fleet.model_bytes * reached > budget:
        enough = budget // fleet.model_bytes
        told = f"{budget} bytes are enough for {enough} of {devices_of(reached)}, "
        told += f"{fleet.model_bytes} bytes each"
        yield Doubt("budgets.bytes_max", told)


def _day_too_small(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A device may fetch fewer bytes in a day than the release has: it takes days, or never ends.

    Raise the device's daily budget, or the timeout of the phases.
    """
    for name in ("model_bytes_per_day_max", "metered_bytes_per_day_max"):
        limit = getattr(spec.policy.conditions, name)
        if limit is not None and limit < fleet.model_bytes:
            told = f"{limit} bytes a day; the release has {fleet.model_bytes}"
            yield Doubt(f"policy.conditions.{name}", told)


def _capacity_unknown(_spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """Devices of the cohort do not say what their interpreter can do: some may fail the self-test.

    Update their agent, or let the first phase contain some of them.
    """
    if fleet.unknown:
        told = f"{fleet.unknown} of {devices_of(fleet.members)} do not say what they can run"
        yield Doubt("cohort", told)


def _offers_slow(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """At its rate a phase makes offers for more than 14 days.

    Raise the rate or its growth.
    """
    ranges = phase_ranges(spec, fleet.members)
    for index, (phase, (first, end)) in enumerate(zip(spec.phases, ranges, strict=False)):
        if phase.rate is not None:
            took_s = sensitivity.offering_s(phase.rate, end - first)
            if took_s > OFFERING_S_MAX:
                told = f"{devices_of(end - first)} take {took_s / DAY_S:.0f} days to offer to"
                yield Doubt(f"phases[{index}].rate", told)


def _pairs_impossible(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A gate on pairs waits for a second answer that nobody gives: no device serves another model.

    The phase pauses at the gate's deadline. Leave shadow_pairs and agreement out of a first
    deployment, and judge it by limits.
    """
    if fleet.served != 0:
        return
    told = f"none of {devices_of(fleet.members)} serves a model of {spec.family}"
    found = {
        place
        for index in range(len(spec.phases))
        for place, gate in _comparing(spec, index)
        if isinstance(gate, ShadowPairsGate | AgreementGate)
    }
    yield from (Doubt(place, told) for place in sorted(found))


def _drift_unsure(spec: RolloutSpec, fleet: Fleet) -> Iterator[Doubt]:
    """A phase with a gate on drift soaks for less time than the watches need to be sure.

    Each learns what is normal with the release, then tests a full window; both span whole cycles of
    the baseline. Soak, or let the gate wait, for the time that is told, or leave the gate out.
    """
    needed_s = max(fleet.watched_s, fleet.watched_rows / PREDICTIONS_PER_S)
    for index, phase in enumerate(spec.phases):
        gate = phase.gates.over(spec.gates).drift
        if gate is not None and phase.mode == "serve" and phase.soak_s < needed_s:
            told = (
                f"drift: {fleet.watched_rows} predictions of a device and {fleet.watched_s:g} s, at"
                f" {PREDICTIONS_PER_S:g} a second {needed_s:g} s, make a watch sure; the phase"
                f" soaks for {phase.soak_s:g} s and waits for {gate.deadline_s:g} s at most"
            )
            yield Doubt(f"phases[{index}].soak_s", told)


def _label_gates(spec: RolloutSpec, fleet: Fleet) -> Iterator[tuple[int, LabelErrorsGate, Arms]]:
    """Yield each phase that has a gate on labels, with the devices that it compares."""
    for index, arms in _serving(spec, fleet):
        gate = spec.phases[index].gates.over(spec.gates).label_errors
        if gate is not None:
            yield index, gate, arms


def _serving(spec: RolloutSpec, fleet: Fleet) -> Iterator[tuple[int, Arms]]:
    """Yield each phase that serves, with the devices that it compares."""
    ranges = phase_ranges(spec, fleet.members)
    for index, (phase, (_, end)) in enumerate(zip(spec.phases, ranges, strict=False)):
        if phase.mode == "serve":
            yield index, Arms(candidate=end, control=fleet.members - end)


def _compared(spec: RolloutSpec, fleet: Fleet) -> Iterator[tuple[int, Quantity, Arms]]:
    """Yield what the phases that serve compare by device, with the devices on each side."""
    for index, arms in _serving(spec, fleet):
        phase = spec.phases[index]
        for asked in quantities(phase.gates.over(spec.gates), phase):
            yield index, asked, arms


def _comparing(spec: RolloutSpec, index: int) -> Iterator[tuple[str, object]]:
    """Yield the gates of a phase, each with the place where it was written."""
    gates = spec.phases[index].gates.over(spec.gates)
    for name in _OPTIONAL_GATES:
        gate = getattr(gates, name)
        if isinstance(gate, tuple):
            places = (f"{_gate_place(spec, index, name)}[{number}]" for number in range(len(gate)))
            yield from zip(places, gate, strict=True)
        elif gate is not None:
            yield _gate_place(spec, index, name), gate


def _gate_place(spec: RolloutSpec, index: int, name: str = "label_errors") -> str:
    """Return where a gate of a phase was written."""
    is_own = getattr(spec.phases[index].gates, name) is not msgspec.UNSET
    return f"phases[{index}].gates.{name}" if is_own else f"gates.{name}"


def _points(excess: float) -> str:
    return f"{excess * 100:.1f}"


CHECKS: Final = (
    Check("phase.first_large", Severity.WARNING, _first_large),
    Check("phase.soak_short", Severity.WARNING, _soak_short),
    Check("phase.timeout_short", Severity.WARNING, _timeout_short),
    Check("phase.offers_slow", Severity.WARNING, _offers_slow),
    Check("gate.power_missing", Severity.WARNING, _power_missing),
    Check("gate.effect_missed", Severity.WARNING, _effect_missed),
    Check("gate.never_judges", Severity.WARNING, _never_judges),
    Check("gate.cannot_exclude", Severity.WARNING, _cannot_exclude),
    Check("gate.no_control", Severity.WARNING, _no_control),
    Check("gate.deadline_short", Severity.WARNING, _deadline_short),
    Check("gate.answers_unwatched", Severity.WARNING, _answers_unwatched),
    Check("gate.failures_allowed", Severity.WARNING, _failures_allowed),
    Check("budget.exceeded", Severity.WARNING, _budget_exceeded),
    Check("budget.day_too_small", Severity.WARNING, _day_too_small),
    Check("gate.pairs_impossible", Severity.NOTE, _pairs_impossible),
    Check("gate.drift_unsure", Severity.NOTE, _drift_unsure),
    Check("gate.margin_zero", Severity.NOTE, _margin_zero),
    Check("gate.few_devices", Severity.NOTE, _few_devices),
    Check("cohort.capacity_unknown", Severity.NOTE, _capacity_unknown),
)
