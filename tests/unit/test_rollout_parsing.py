"""Rollout files: what is read, and that every refusal is one line with the place in the file."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.rollouts.gate_specs import LabelFreeAccuracyGate
from control_plane.rollouts.parsing import ROLLOUT_BYTES_MAX, parse
from control_plane.rollouts.phase_specs import PhaseSpec
from control_plane.rollouts.schema import json_schema
from control_plane.rollouts.spec import RolloutSpec
from firmware_bundles.errors import RolloutInvalid
from firmware_bundles.wire.messages import Policy, Shadowing, Uploading

GOOD = """\
family: digits
release: "2"
cohort: all
phases:
  - share: 0.25
    soak_s: 5
  - {share: 1.0, soak_s: 5, timeout_s: 60}
gates:
  installs: {failed_share_max: 0.1}
  label_errors: {margin: 0.1, labels_min: 50}
probation_s: 1
policy: {attempts_max: 2}
"""


def test_a_rollout_file_is_read() -> None:
    """Fields are typed, defaults fill the rest, and devices get one policy."""
    spec = parse(GOOD)
    assert spec.phases == (
        PhaseSpec(share=0.25, soak_s=5.0),
        PhaseSpec(share=1.0, soak_s=5.0, timeout_s=60.0),
    )
    assert spec.gates.label_errors is not None
    assert spec.gates.label_errors.error_rate_max is None
    assert spec.device_policy() == Policy(probation_s=1.0, attempts_max=2)


def test_shadows_are_part_of_the_policy_where_they_are_wanted() -> None:
    """Else assignments say nothing of them: their signed bytes stay as they were."""
    wanted = GOOD.replace("attempts_max: 2", "shadow: {share: 0.1, rows_min: 500}")
    shadow = Shadowing(share=0.1, rows_min=500)
    assert parse(wanted).device_policy() == Policy(probation_s=1.0, shadow=shadow)
    assert parse(GOOD).device_policy().shadow is msgspec.UNSET
    with pytest.raises(RolloutInvalid, match=r"policy\.shadow"):
        parse(wanted.replace("0.1, rows", "1.5, rows"))


def test_uploads_are_part_of_the_policy_where_they_are_limited() -> None:
    """A share of single predictions, and bytes a day; otherwise assignments say nothing of it."""
    wanted = GOOD.replace(
        "attempts_max: 2", "predictions_share: 0.01, telemetry_bytes_per_day_max: 1000000"
    )
    upload = Uploading(predictions_share=0.01, bytes_per_day_max=1_000_000)
    assert parse(wanted).device_policy() == Policy(probation_s=1.0, upload=upload)
    assert parse(GOOD).device_policy().upload is msgspec.UNSET


def test_phases_in_shadow_nest_in_those_that_serve() -> None:
    """Each mode grows by itself; a shadow reaches beyond whatever had an offer, the end serves."""
    shadow = GOOD.replace("attempts_max: 2", "shadow: {share: 0.1}")
    mixed = shadow.replace("share: 0.25", "share: 0.25\n    mode: shadow\n  - share: 0.25")
    assert [phase.mode for phase in parse(mixed).phases] == ["shadow", "serve", "serve"]
    late = shadow.replace("share: 1.0", "share: 0.25, mode: shadow}\n  - {share: 1.0")
    with pytest.raises(RolloutInvalid, match=r"does not go beyond the 0\.25 of an earlier phase"):
        parse(late)
    with pytest.raises(RolloutInvalid, match="the last phase has to serve"):
        parse(shadow.replace("share: 1.0", "share: 1.0, mode: shadow"))


def test_gates_of_a_phase_stand_over_those_of_the_rollout() -> None:
    """What a phase names replaces, null leaves out, and the rest stays."""
    text = GOOD.replace("share: 0.25", "share: 0.25\n    gates: {label_errors: null, alpha: 0.01}")
    spec = parse(text)
    first, second = (phase.gates.over(spec.gates) for phase in spec.phases)
    assert second == spec.gates
    assert first == msgspec.structs.replace(spec.gates, label_errors=None, alpha=0.01)


@pytest.mark.parametrize(
    ("gates", "phase", "told"),
    [
        ("label_free_accuracy: {}", "", "line 10: gates.label_free_accuracy"),
        ("label_free_accuracy: {}\n  traffic: {device_bytes_max: 9}", "", "line 10"),
        (
            "errors: {}",
            "gates: {errors: null, label_free_accuracy: {}}",
            r"line 6: phases\[0\].gates.label_free_accuracy: .*the only gate of phases\[0\]",
        ),
        (
            "errors: {}\n  label_free_accuracy: {}",
            "gates: {errors: null}",
            r"line 12: gates.label_free_accuracy: .*the only gate of phases\[0\]",
        ),
    ],
)
def test_confidences_are_never_the_only_gate_of_a_phase(gates: str, phase: str, told: str) -> None:
    """What confidences promise stands beside something that was measured, in every phase."""
    text = GOOD.replace("label_errors: {margin: 0.1, labels_min: 50}", gates)
    with pytest.raises(RolloutInvalid, match=told):
        parse(text.replace("share: 0.25", f"share: 0.25\n    {phase}" if phase else "share: 0.25"))


def test_confidences_may_stand_beside_another_gate() -> None:
    """A gate on what devices measure is enough."""
    for other in ("errors: {}", "drift: {}", "shadow_pairs: {}, values: []"):
        text = GOOD.replace("attempts_max: 2", "shadow: {share: 0.1}")
        gates = f"{{label_free_accuracy: {{margin: 0.1}}, {other}}}"
        found = (
            parse(text.replace("share: 0.25", f"share: 0.25\n    gates: {gates}")).phases[0].gates
        )
        assert found.label_free_accuracy == LabelFreeAccuracyGate(margin=0.1)


def test_all_that_can_be_written_is_in_the_reference() -> None:
    """The page of rollout files names every field of the schema."""
    page = (Path(__file__).parents[2] / "docs/reference/rollout-file.md").read_text()
    forms = json_schema()["$defs"].values()
    named = {field for form in forms for field in form["properties"]}
    assert {field for field in named if f"`{field}`" not in page} == set()


def test_json_is_read_too() -> None:
    """The same rollout as JSON, even indented with tabs, is the same value."""
    document = msgspec.to_builtins(parse(GOOD))
    assert parse(json.dumps(document)) == parse(GOOD)
    assert parse(json.dumps(document, indent="\t")) == parse(GOOD)


def test_what_was_stored_is_read_again() -> None:
    """The stored form of a rollout is a rollout file."""
    spec = parse(GOOD)
    assert msgspec.convert(msgspec.to_builtins(spec), RolloutSpec) == spec


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("share: 1.0", "shar: 1.0", "line 7: phases[1].shar: there is no such field"),
        ("share: 1.0", "share: 1.5", "line 7: phases[1].share: expected float <= 1.0"),
        ("share: 1.0", "share: .nan", "line 7: phases[1].share: expected float > 0.0"),
        ("share: 1.0", "share: yes", "line 7: phases[1].share: expected float, got bool"),
        ("share: 1.0", "count: 3, share: 1.0", "line 7: phases[1]: give either share or count"),
        (
            "share: 1.0",
            "share: 0.25",
            "line 7: phases[1].share: 0.25 does not go beyond the 0.25 of an earlier phase",
        ),
        ("cohort: all\n", "", "line 1: cohort is missing"),
        ("cohort: all", "cohort: No Way", "line 3: cohort: 'No Way' is not a valid name"),
        ("cohort: all", "cohort: all\ncohort: b", "line 4: 'cohort' is given twice"),
        ('"2"', "2", "line 2: release: expected str, got int"),
        ("margin: 0.1, ", "", "line 10: gates.label_errors: margin is missing"),
        ("  installs", "  install", "line 9: gates.install: there is no such field"),
        ("attempts_max", "attempt_max", "line 12: policy.attempt_max: there is no such field"),
        ("probation_s: 1", "schema: 2.0", "line 11: schema: this control plane reads 1.1, not 2.0"),
        (
            "share: 0.25",
            "share: 0.25\n    rate: {devices: 0, per_s: 1}",
            "line 6: phases[0].rate.devices: expected int >= 1",
        ),
        (
            "share: 0.25",
            "share: 0.25\n    rate: {devices: 1, per_h: 1}",
            "line 6: phases[0].rate.per_h: there is no such field",
        ),
        (
            "share: 0.25",
            "share: 0.25\n    window: 25:00-01:00",
            "line 6: phases[0].window: '25:00-01:00' is not a valid name",
        ),
        (
            "share: 0.25",
            "share: 0.25\n    gates: {installs: null}",
            "line 6: phases[0].gates.installs: expected object, got null",
        ),
        (
            "share: 0.25",
            "share: 0.25\n    gates: {label_errors: {margin: 2}}",
            "line 6: phases[0].gates.label_errors.margin: expected float <= 1.0",
        ),
        (
            "share: 0.25",
            "share: 0.25\n    mode: shadow",
            "line 6: phases[0].mode: a phase in shadow needs policy.shadow",
        ),
        (
            "share: 1.0",
            "share: 1.0, mode: shadow",
            "line 7: phases[1].mode: a phase in shadow needs policy.shadow",
        ),
        ("probation_s: 1", "hold_out: {}", "line 11: hold_out: give either share or count"),
        (
            "probation_s: 1",
            "hold_out: {share: 1.0}",
            "line 11: hold_out.share: expected float < 1.0",
        ),
        (
            "probation_s: 1",
            "exclude: {device: [a]}",
            "line 11: exclude.device: there is no such field",
        ),
        (
            "probation_s: 1",
            "exclude: {devices: [A]}",
            "line 11: exclude.devices[0]: 'A' is not a valid name",
        ),
        ("probation_s: 1", "priority: 1001", "line 11: priority: expected int <= 1000"),
        (
            "probation_s: 1",
            "budgets: {bytes_max: -1}",
            "line 11: budgets.bytes_max: expected int >= 0",
        ),
        ("probation_s: 1", "on_failure: x", "line 11: on_failure: invalid enum value 'x'"),
        ("family: digits", "family: [", "line 3: expected ',' or ']', but got '<scalar>'"),
        ("soak_s: 5\n", "soak_s: *five\n", "line 6: anchors and aliases are not read here"),
        ("soak_s: 5\n", "soak_s: !!int ''\n", "line 6: phases[0].soak_s: '' cannot be read"),
        (
            "soak_s: 5\n",
            "soak_s: !env HOME\n",
            "line 6: phases[0].soak_s: the tag '!env' is not read here",
        ),
    ],
)
def test_a_refusal_names_line_and_field(before: str, after: str, message: str) -> None:
    """What is wrong, in which line and field, in one line."""
    assert before in GOOD
    with pytest.raises(RolloutInvalid) as refused:
        parse(GOOD.replace(before, after, 1))
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("before", "after", "hint"),
    [
        ("share: 1.0", "shar: 1.0", "Did you mean share?"),
        ("cohort:", "cohrot:", "Did you mean cohort?"),
        ("failed_share_max", "failed_max", "Did you mean failed_share_max?"),
        ('"2"', "2.0", "Write it in quotes."),
    ],
)
def test_a_refusal_suggests(before: str, after: str, hint: str) -> None:
    """A misspelt field is answered with the one that was meant."""
    with pytest.raises(RolloutInvalid) as refused:
        parse(GOOD.replace(before, after, 1))
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "- a",
        "\x00",
        b"\xff",
        "[" * 2_000,
        "? [a]\n: b",
        "a: &x [1, 2]\nb: *x",
        f"{GOOD}---\n{GOOD}",
        "!!python/object:os.system {}",
        "x" * (ROLLOUT_BYTES_MAX + 1),
        'family: "\\e[31m"',
        '"\\e[31m": 1',
    ],
    ids=range(13),
)
def test_hostile_files_are_refused_in_one_printable_line(text: str | bytes) -> None:
    """Nothing in a file makes it grow, run code, or reach the terminal."""
    with pytest.raises(RolloutInvalid) as refused:
        parse(text)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) <= 300


def _refusal(text: str | bytes) -> str | None:
    try:
        parse(text)
    except RolloutInvalid as refused:
        return refused.message
    return None


@given(st.text() | st.binary())
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    """The parser knows two endings."""
    assert (_refusal(text) or "read").isprintable()


@given(
    st.integers(0, len(GOOD) - 1),
    st.integers(0, 12),
    st.text(alphabet="{}[]:,-\"'&*!|>%@ \n0.#?~ae", max_size=4),
)
def test_any_damage_is_read_or_refused(start: int, length: int, put: str) -> None:
    """The same for files that are nearly right, with the line."""
    refusal = _refusal(GOOD[:start] + put + GOOD[start + length :])
    assert refusal is None or refusal.startswith("line ")
