"""What is doubtful about a rollout: each check finds what it is for, none a sound plan."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.rollouts import sensitivity
from control_plane.rollouts.checks import CHECKS, Fleet, Severity, check
from control_plane.rollouts.expected import quantities
from control_plane.rollouts.gate_specs import LabelErrorsGate
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.phase_specs import OfferRate
from control_plane.rollouts.sensitivity import Arms
from control_plane.rollouts.statistics import (
    DEVICES_MIN,
    OBSERVATIONS_MIN,
    lower_bound,
    upper_bound,
)
from firmware_bundles.sketches import baseline
from firmware_bundles.sketches.watch import REFERENCE_ROWS, rows_until_sure, seconds_until_sure

SOUND = """
family: digits
release: "2"
cohort: all
hold_out: {share: 0.05, is_kept_after: true}
phases:
  - {share: 0.03, soak_s: 7200}
  - {share: 0.4, soak_s: 7200}
  - {share: 0.95, soak_s: 7200}
gates:
  label_errors: {margin: 0.05, labels_min: 2000}
"""
FLEET = Fleet(members=1_000, model_bytes=1_000_000)


def codes(text: str, fleet: Fleet = FLEET) -> set[str]:
    """Return the codes of what is found in a file."""
    return {note.code for note in check(parse(text), fleet)}


def test_a_sound_plan_has_no_notes() -> None:
    """Small first phase, long soaks, labels enough, a control to the end: nothing is doubtful."""
    assert check(parse(SOUND), FLEET) == ()


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("phase.first_large", "share: 0.03", "share: 0.3"),
        ("phase.soak_short", "{share: 0.03, soak_s: 7200}", "{share: 0.03, soak_s: 60}"),
        (
            "phase.timeout_short",
            "{share: 0.03, soak_s: 7200}",
            "{share: 0.03, soak_s: 7200, timeout_s: 50}",
        ),
        (
            "phase.timeout_short",
            "{share: 0.03, soak_s: 7200}",
            "{share: 0.03, soak_s: 7200, timeout_s: 600}",
        ),
        (
            "phase.timeout_short",
            "{share: 0.03, soak_s: 7200}\n",
            "{share: 0.03, timeout_s: 3600}\npolicy: {conditions: {window: '01:00-03:00'}}\n",
        ),
        (
            "phase.offers_slow",
            "{share: 0.95, soak_s: 7200}",
            "{share: 0.95, soak_s: 7200, rate: {devices: 1, per_s: 3600}}",
        ),
        ("gate.power_missing", "labels_min: 2000", "labels_min: 200"),
        (
            "gate.cannot_exclude",
            "share: 0.03, soak_s: 7200",
            "count: 15, gates: {label_errors: {margin: 0.05, is_non_inferiority_needed: true}}",
        ),
        ("gate.no_control", "hold_out: {share: 0.05, is_kept_after: true}", ""),
        ("gate.margin_zero", "gates:", "gates:\n  drift: {margin: 0}"),
        ("gate.effect_missed", "gates:", "gates:\n  crashes: {margin: 0}"),
        (
            "gate.never_judges",
            "{share: 0.03, soak_s: 7200}",
            "{count: 9, soak_s: 7200, gates: {latency: {}}}",
        ),
        ("gate.deadline_short", "labels_min: 2000", "labels_min: 2000, deadline_s: 60"),
        ("gate.answers_unwatched", "label_errors: {margin: 0.05, labels_min: 2000}", "alpha: 0.1"),
        ("gate.failures_allowed", "gates:", "gates:\n  installs: {failed_share_max: 0.5}"),
        ("budget.exceeded", "gates:", "budgets: {bytes_max: 500000000}\ngates:"),
        (
            "budget.day_too_small",
            "gates:",
            "policy: {conditions: {model_bytes_per_day_max: 1000}}\ngates:",
        ),
        ("gate.few_devices", "share: 0.03", "count: 9"),
    ],
)
def test_each_check_finds_what_it_is_for(code: str, before: str, after: str) -> None:
    """One change makes a sound plan doubtful, in that one way."""
    text = SOUND.replace(before, after, 1)
    if code == "gate.no_control":
        text = text.replace("share: 0.95", "share: 1.0")
    if "\npolicy" in after:  # a second key may not stand between the phases
        policy = after.partition("\n")[2]
        text = SOUND.replace(before, after.partition("\n")[0] + "\n", 1) + policy
    assert code not in codes(SOUND)
    assert code in codes(text)


@pytest.mark.parametrize(
    ("gate", "place"),
    [
        ("errors: {EXCLUDE}", "errors"),
        ("latency: {percentile: 95, EXCLUDE}", "latency"),
        ("values: [{name: v, worse: lower, effect: 1, EXCLUDE}]", "values[0]"),
    ],
)
def test_any_gate_that_excludes_takes_twenty_devices(gate: str, place: str) -> None:
    """Told at the place where it was asked for, in the phase or for all of them."""
    asked = gate.replace("EXCLUDE", "is_non_inferiority_needed: true")
    for text, where in (
        (SOUND.replace("share: 0.03", f"count: 15, gates: {{{asked}}}"), "phases[0].gates"),
        (SOUND.replace("share: 0.03", "count: 15") + f"  {asked}\n", "gates"),
    ):
        found = {note.code: note for note in check(parse(text), FLEET)}["gate.cannot_exclude"]
        assert found.field == f"{where}.{place}.is_non_inferiority_needed"
        assert found.sentence == "15 and 985 devices; 20 an arm are needed"


@pytest.mark.parametrize(
    ("gate", "place"),
    [
        ("latency: {latency_ms_max: 9}", "latency"),
        ("energy: {watts_max: 9}", "energy"),
        ("values: [{name: v, worse: lower, effect: 1, limit: 9}]", "values[0]"),
    ],
)
def test_a_limit_on_a_mean_takes_ten_devices(gate: str, place: str) -> None:
    """Noted where nobody is left, or was ever there, to compare with."""
    first = msgspec.structs.replace(FLEET, served=0)

    def found(text: str, fleet: Fleet) -> list[str]:
        notes = check(parse(text), fleet)
        return [n.field for n in notes if n.code == "gate.never_judges" and "a mean" in n.sentence]

    few = SOUND.replace("share: 0.03", "count: 9") + f"  {gate}\n"
    assert found(few, first) == [f"gates.{place}"]
    assert found(few, FLEET) == []
    assert found(SOUND + f"  {gate}\n", first) == []
    assert (
        found(
            few.replace(
                gate, gate.split(":", maxsplit=1)[0] + (": []" if "values" in gate else ": {}")
            ),
            first,
        )
        == []
    )


def test_pairs_take_another_model() -> None:
    """In a first deployment nobody answers beside the release; what is not known is not noted."""
    pairs = SOUND + "  shadow_pairs: {}\npolicy: {shadow: {share: 0.1}}\n"
    first = msgspec.structs.replace(FLEET, served=0)
    (note,) = [each for each in check(parse(pairs), first) if each.code == "gate.pairs_impossible"]
    assert (note.severity, note.field) == (Severity.NOTE, "gates.shadow_pairs")
    assert note.sentence == "none of 1000 devices serves a model of digits"
    for fleet, text in ((FLEET, pairs), (first, SOUND)):
        assert "gate.pairs_impossible" not in codes(text, fleet)
    assert "gate.pairs_impossible" not in codes(pairs, msgspec.structs.replace(FLEET, served=1))


@pytest.mark.parametrize(
    ("rows", "seconds", "soak_s", "is_short"),
    [
        (5_300, 0.0, 5_299, True),
        (5_300, 0.0, 5_300, False),
        (5_300, 172_800.0, 172_799, True),
        (5_300, 172_800.0, 172_800, False),
        (0, 0.0, 0, False),
    ],
)
def test_a_watch_takes_its_time(rows: int, seconds: float, soak_s: int, is_short: bool) -> None:  # noqa: FBT001 a column
    """A soak that ends before any device is sure of its input is noted, with the time it takes."""
    fleet = msgspec.structs.replace(FLEET, watched_rows=rows, watched_s=seconds)
    text = SOUND.replace("soak_s: 7200", f"soak_s: {soak_s}") + "  drift: {margin: 0.1}\n"
    found = [each for each in check(parse(text), fleet) if each.code == "gate.drift_unsure"]
    assert [each.field for each in found] == [f"phases[{n}].soak_s" for n in range(3 * is_short)]
    for each in found:
        assert f"{max(rows, seconds):g} s, make a watch sure" in each.sentence


def test_how_long_a_watch_takes_stands_in_the_baseline() -> None:
    """Commissioning and one full window, every so many predictions, over a whole cycle each."""
    rows = np.random.default_rng(1).normal(size=(900, 2)).astype(np.float32)
    scores = np.full((900, 2), 0.5, dtype=np.float32)
    plain = baseline.make({"x": rows}, scores, ("no", "yes"), stride=3)
    assert rows_until_sure(plain) == (REFERENCE_ROWS + plain.window_rows) * 3
    assert seconds_until_sure(plain) == 0.0
    assert seconds_until_sure(msgspec.structs.replace(plain, cycle_s=86_400.0)) == 172_800.0


def test_what_is_not_known_of_devices_is_noted() -> None:
    """Devices that say nothing of their interpreter are counted."""
    notes = check(parse(SOUND), msgspec.structs.replace(FLEET, unknown=7))
    assert [(note.code, note.severity, note.field) for note in notes] == [
        ("cohort.capacity_unknown", Severity.NOTE, "cohort")
    ]
    assert notes[0].sentence == "7 of 1000 devices do not say what they can run"


def test_warnings_come_first() -> None:
    """What a strict start refuses stands above what is only said."""
    text = SOUND.replace("share: 0.03, soak_s: 7200", "count: 9, soak_s: 1")
    notes = check(parse(text), msgspec.structs.replace(FLEET, unknown=1))
    assert [note.severity for note in notes] == sorted(
        (note.severity for note in notes), key=list(Severity).index
    )
    assert {note.severity for note in notes} == set(Severity)


def test_a_small_fleet_may_begin_with_a_few() -> None:
    """5 % of eight devices would be nobody; all eight at once is too many all the same."""
    few = Fleet(members=8)
    assert "phase.first_large" not in codes(SOUND.replace("0.03", "0.25"), few)
    all_at_once = "{family: digits, release: '2', cohort: all, phases: [{share: 1.0}]}"
    assert "phase.first_large" in codes(all_at_once, few)


def test_codes_are_told_apart() -> None:
    """No two checks share a code."""
    assert len({each.code for each in CHECKS}) == len(CHECKS)


@given(
    st.floats(0.0, 0.3),
    st.integers(1, 5_000),
    st.integers(1, 60),
    st.integers(0, 60),
    st.floats(0.001, 0.2),
)
def test_the_labels_that_are_asked_for_are_enough(
    margin: float, labels_min: int, candidate: int, control: int, alpha: float
) -> None:
    """With as many labels as a note names, the gate finds what it must."""
    gate, arms = LabelErrorsGate(margin=margin, labels_min=labels_min), Arms(candidate, control)
    needed = sensitivity.labels_needed(gate, arms, alpha)
    assert needed >= labels_min
    enough = sensitivity.found(LabelErrorsGate(margin=margin, labels_min=needed), arms, alpha)
    assert enough is not None
    assert enough <= sensitivity.wanted(margin)


def test_on_a_few_devices_the_effect_named_is_one_that_is_found() -> None:
    """The reckoning uses the gate's own bounds: at that excess they refuse the candidate."""
    gate, labels = LabelErrorsGate(margin=0.02, labels_min=400), 400
    effect = sensitivity.found(gate, Arms(2, 6), 0.05)
    assert effect is not None
    control = upper_bound(round(sensitivity.ERROR_SHARE * labels), labels, 0.025)
    wrong = round((sensitivity.ERROR_SHARE + effect) * labels)
    assert lower_bound(wrong, labels, 0.025) - control > gate.margin
    assert lower_bound(wrong - 1, labels, 0.025) - control <= gate.margin
    assert labels > OBSERVATIONS_MIN


def test_offers_take_as_long_as_their_waves() -> None:
    """The first wave goes at once; growth shortens the rest, up to its limit."""
    assert sensitivity.offering_s(OfferRate(devices=10, per_s=60), 100) == 540
    assert sensitivity.offering_s(OfferRate(devices=10, per_s=60, growth=2.0), 70) == 120
    limited = OfferRate(devices=10, per_s=60, growth=2.0, devices_max=20)
    assert sensitivity.offering_s(limited, 70) == 180


@pytest.mark.parametrize("gates", ["latency: {}", "errors: {}", "crashes: {}", "drift: {}"])
def test_so_many_devices_find_what_must_be_found(gates: str) -> None:
    """With as many devices an arm as are said to be needed it is found, with fewer it is not."""
    spec = parse(SOUND.replace("gates:\n", f"gates:\n  {gates}\n"))
    (asked,) = quantities(spec.gates, spec.phases[0])
    needed = sensitivity.devices_needed(asked, 0.025)
    assert sensitivity.found_between(asked, Arms(needed, needed), 0.025) <= asked.wanted
    if needed > DEVICES_MIN:
        few = needed - 1
        assert sensitivity.found_between(asked, Arms(few, few), 0.025) > asked.wanted


def test_a_gate_that_needs_more_devices_says_how_many() -> None:
    """The sentence has the devices, what they would find, what must be, and how many it takes."""
    text = SOUND.replace("gates:", "gates:\n  drift: {margin: 0.1}")
    (told,) = check(parse(text.replace("share: 0.03", "count: 10")), FLEET)
    assert told.sentence == (
        "drift: with 10 and 990 devices +44 points of devices that changed would be found; "
        "+40 points of devices that changed must be, which takes about 26 devices an arm"
    )


def test_without_a_control_every_gate_that_compares_needs_a_limit() -> None:
    """The last phase leaves nobody to compare with; a limit judges in the comparison's place."""
    phases = "phases:\n  - {share: 0.03, soak_s: 7200}\n  - {share: 1.0, soak_s: 7200}\n"
    text = f"family: digits\nrelease: '2'\ncohort: all\n{phases}gates: {{latency: {{}}}}\n"
    (told,) = check(parse(text), FLEET)
    assert (told.code, told.field) == ("gate.no_control", "phases[1]")
    assert check(parse(text.replace("{}", "{latency_ms_max: 50}")), FLEET) == ()
