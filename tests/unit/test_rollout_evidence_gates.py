"""The gates on telemetry as tables: evidence in, verdict and numbers out."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.rollouts.evidence import Arms, Evidence, Metric, Pairs, Promised
from control_plane.rollouts.gates import judge
from control_plane.rollouts.gates.shadow_pairs import losses_beyond
from control_plane.rollouts.model import (
    Counts,
    Finding,
    FleetView,
    PhaseState,
    Rollout,
    Standing,
    Verdict,
)
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.statistics import Arm

SPEC = """
family: digits
release: "2"
cohort: all
phases:
  - {count: 20, mode: shadow}
  - {count: 20}
  - {share: 1.0}
gates:
  %s
policy: {shadow: {share: 1.0}}
"""
NOW = 1_000.0
F, W, P, E = Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.ERROR


def _judge(gates: str, evidence: Evidence, *, phase: int = 1, **view: object) -> list[Finding]:
    """Return what the gates but installs find in a phase that soaks."""
    standing = Standing(phase=phase, phase_state=PhaseState.SOAKING, since=NOW)
    rollout = Rollout(id="r", spec=parse(SPEC % gates), release_path="p", standing=standing)
    phases = [Counts(), Counts(), Counts()]
    phases[phase] = Counts(committed=20)
    left = 0 if phase == 2 else 40
    told = FleetView(phases=tuple(phases), members=60, control_devices=left, evidence=evidence)
    found = judge(rollout, msgspec.structs.replace(told, **view), NOW + 1)
    return [each for each in found if each.gate != "installs"]


def _arm(mean: float, devices: int = 20, spread: float = 0.02, observations: int = 4_000) -> Arm:
    means = [mean + (-1) ** place * spread for place in range(devices)]
    return Arm.of(means, [0.0] * devices, observations)


@pytest.mark.parametrize(
    ("pairs", "verdict", "words"),
    [
        (Pairs(), W, "50 labelled inputs are needed"),
        (Pairs(2, 90, 80, 40, 7, 0), W, "50 labelled inputs are needed"),
        (Pairs(2, 90, 80, 40, 12, 0), F, "12 were wrong only by the release and 0 only by"),
        (Pairs(2, 90, 80, 80, 4, 4), P, "8 lost of 8 disagreements would have been found"),
        (Pairs(2, 90, 80, 80, 2, 1), P, "3 disagreements are too few to show any"),
        (Pairs(2, 900, 800, 800, 4, 40), P, "no harm is shown"),
        (Pairs(2, 900, 800, 800, 60, 20), F, "above 20"),
        (Pairs(2, 90, 80, 8, 9, 0), E, "impossible counts"),
    ],
)
@pytest.mark.parametrize("phase", [0, 1, 2])
def test_pairs_on_labelled_inputs(pairs: Pairs, verdict: Verdict, words: str, phase: int) -> None:
    """Any number of devices, before and after the switch; what could be found is told."""
    (found,) = _judge("shadow_pairs: {}", Evidence(pairs=pairs), phase=phase)
    assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence
    assert found.samples["labelled"] == pairs.labelled


@given(st.integers(0, 200), st.sampled_from([0.05, 0.01, 1e-4]))
def test_the_losses_that_would_be_found_are_the_fewest(split: int, alpha: float) -> None:
    """One fewer would not show harm; a loss of all shows it, where there are enough."""
    lost = losses_beyond(split, alpha)
    assert (lost is None) == (split < math.log(2 / alpha) / math.log(2)) or split < 30
    assert lost is None or lost > split / 2


@pytest.mark.parametrize(
    ("gate", "quantity", "limit", "harm"),
    [("errors", "failed", "rate_max: 0.02", 0.2), ("crashes", "deaths", "crashes_max: 2", 0.1)],
)
def test_failures_and_deaths_are_judged_by_device_or_by_a_limit(
    gate: str, quantity: str, limit: str, harm: float
) -> None:
    """Harm fails, alike passes, and devices that do not tell are never taken for good ones."""
    bad, good, few = _arm(harm), _arm(0.0, spread=0.0), _arm(harm, devices=9)

    def verdict(candidate: Arm, control: Arm, phase: int = 1, fields: str = "") -> Verdict | None:
        arms = Arms(candidate, control)
        evidence = Evidence(failed=arms) if quantity == "failed" else Evidence(deaths=arms)
        (found,) = _judge(f"{gate}: {{{fields}}}", evidence, phase=phase)
        return found.verdict

    assert verdict(bad, good) is F
    assert verdict(good, good) is P
    assert {verdict(few, good), verdict(good, few), verdict(Arm(), Arm())} == {W}
    assert verdict(bad, Arm(), 2) is None
    assert [verdict(each, Arm(), 2, limit) for each in (bad, good, few, Arm())] == [F, P, F, W]


def test_failures_and_deaths_take_their_part_of_alpha() -> None:
    """Two more gates that test: each has half of the chance for a false stop."""
    both = parse(SPEC % "{errors: {}, crashes: {}}").gates
    assert both.alpha_each == pytest.approx(both.alpha / 2)


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        (Pairs(2, 99, 0), W),
        (Pairs(2, 400, 400), P),
        (Pairs(2, 400, 390), P),
        (Pairs(2, 400, 378), W),
        (Pairs(2, 400, 300), F),
        (Pairs(2, 400, 401), E),
    ],
)
def test_agreement(pairs: Pairs, verdict: Verdict) -> None:
    """Below the limit fails only once that is shown."""
    gates = "agreement: {share_min: 0.95, pairs_min: 100}"
    (found,) = _judge(gates, Evidence(pairs=pairs), phase=0)
    assert found.verdict is verdict, found.sentence


@pytest.mark.parametrize(
    ("arms", "phase", "verdict", "words"),
    [
        (Arms(), 1, W, "0 confidences on 0 devices of the candidate"),
        (Arms(_arm(0.05), _arm(0.05)), 1, P, "would have been found in 95% of cases"),
        (Arms(_arm(0.3), _arm(0.05)), 1, F, "+25.0 points with no day before"),
        (Arms(_arm(0.3, devices=9), _arm(0.05)), 1, W, "200 on 10 are needed"),
        (Arms(_arm(0.3), Arm()), 2, F, "above the limit of estimated errors 10.0%"),
        (Arms(_arm(0.3), _arm(0.05)), 0, None, "does not apply"),
    ],
)
def test_confidences_are_compared_beside_what_is_known_of_drift(
    arms: Arms, phase: int, verdict: Verdict | None, words: str
) -> None:
    """Estimates never stand alone: the sentence tells of drift, and another gate is there."""
    gates = "{label_free_accuracy: {accuracy_min: 0.9}, errors: {}}"
    for drifting, told in (((0, 0), "drift: on none"), ((2, 1), "drift: left out are 2 devices")):
        found, _ = _judge(gates, Evidence(promised=Promised(arms, drifting)), phase=phase)
        assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence
        assert (told in found.sentence) is (verdict is not None), found.sentence


@pytest.mark.parametrize(
    ("arms", "phase", "verdict", "words"),
    [
        (Arms(), 1, W, "200 on 10 are needed; no device's platform tells its energy"),
        (Arms(_arm(1.0, devices=4), _arm(1.0)), 1, W, "4000 measured minutes on 4 devices"),
        (Arms(_arm(1.0), _arm(1.0)), 1, P, "2.72 W on 20 devices, 2.72 W on 20 of the control"),
        (Arms(_arm(1.5), _arm(1.0)), 1, F, "above the limit of +20.0%"),
        (Arms(_arm(3.0), Arm()), 2, F, "above the limit of 5 W"),
        (Arms(_arm(1.0), Arm()), 2, P, "within the limit of 5 W"),
    ],
)
def test_energy_is_the_power_of_devices_that_tell_it(
    arms: Arms, phase: int, verdict: Verdict, words: str
) -> None:
    """A factor between the arms, or watts against a limit; who does not tell is missing."""
    (found,) = _judge("energy: {watts_max: 5}", Evidence(watts=arms), phase=phase)
    assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence


_MS_10 = math.log1p(10_000)


@pytest.mark.parametrize(
    ("arms", "verdict", "words"),
    [
        (Arms(), W, "0 answers on 0 devices of the candidate, 0 on 0 of the control"),
        (Arms(_arm(_MS_10, devices=9), _arm(_MS_10)), W, "2000 on 10 are needed"),
        (Arms(_arm(_MS_10), _arm(_MS_10)), P, "p95 10 ms on 20 devices, p95 10 ms on 20"),
        (Arms(_arm(_MS_10 + 0.22), _arm(_MS_10)), P, "within the limit of +25.3%"),
        (Arms(_arm(_MS_10 + 0.5), _arm(_MS_10)), F, "above the limit of +25.3%"),
    ],
)
def test_a_percentile_between_arms(arms: Arms, verdict: Verdict, words: str) -> None:
    """The same test on the devices' percentiles, a bin's width beyond the increase."""
    (found,) = _judge("latency: {percentile: 95}", Evidence(latency=arms))
    assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence


@pytest.mark.parametrize(
    ("arms", "verdict", "words"),
    [
        (Arms(), W, "200 on 10 are needed"),
        (Arms(_arm(_MS_10, devices=9), _arm(_MS_10)), W, "on 9 devices of the candidate"),
        (Arms(_arm(_MS_10), _arm(_MS_10)), P, "would have been found in 95% of cases"),
        (Arms(_arm(_MS_10 + 0.1), _arm(_MS_10)), P, "+10.5% with no day before"),
        (Arms(_arm(_MS_10 + 0.2), _arm(_MS_10)), W, "not shown to be"),
        (Arms(_arm(_MS_10 + 0.5), _arm(_MS_10)), F, "16.5 ms on 20 devices, 10 ms on 20"),
    ],
)
def test_latency_between_arms(arms: Arms, verdict: Verdict, words: str) -> None:
    """A factor between the arms, devices as the unit."""
    (found,) = _judge("latency: {}", Evidence(latency=arms))
    assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [("{}", None), ("{latency_ms_max: 11}", P), ("{latency_ms_max: 9}", F)],
)
def test_latency_without_a_control(gate: str, verdict: Verdict | None) -> None:
    """A full phase is judged by an absolute limit, or not at all."""
    (found,) = _judge(f"latency: {gate}", Evidence(latency=Arms(candidate=_arm(_MS_10))), phase=2)
    assert found.verdict is verdict, found.sentence


def test_arms_are_not_compared_while_the_release_is_in_the_shadow() -> None:
    """It answers nobody there."""
    gates = "{latency: {}, drift: {}, values: [{name: v, worse: higher, effect: 1}]}"
    found = _judge(
        gates.replace("{latency", "latency", 1)[:-1].replace(", ", "\n  ", 2), Evidence(), phase=0
    )
    assert [each.verdict for each in found] == [None, None, None]


@pytest.mark.parametrize(
    ("gate", "evidence", "phase", "value", "threshold"),
    [
        ("latency: {}", {"latency": Arms(_arm(_MS_10 + 0.3), _arm(_MS_10))}, 1, 0.35, 0.2),
        ("latency: {latency_ms_max: 12}", {"latency": Arms(_arm(_MS_10))}, 2, 10.0, 12.0),
        ("energy: {watts_max: 4}", {"watts": Arms(_arm(1.0))}, 2, 2.718, 4.0),
        ("crashes: {margin: 2}", {"deaths": Arms(_arm(0.1), _arm(0.0, spread=0.0))}, 1, 144.0, 2.0),
        ("values: [{name: v, worse: lower, effect: 1, margin: 2}]",
         {"values": (("v", Arms(_arm(7.0), _arm(10.0))),)}, 1, -3.0, -2.0),
        ("values: [{name: v, worse: lower, effect: 1, limit: 8}]",
         {"values": (("v", Arms(_arm(7.0))),)}, 2, 7.0, 8.0),
    ],
)  # fmt: skip
def test_numbers_are_in_the_unit_of_the_file(
    gate: str, evidence: dict[str, Any], phase: int, value: float, threshold: float
) -> None:
    """A finding's value and threshold are shares, ms, watts, deaths a day, or the value's unit."""
    (found,) = _judge(gate, Evidence(**evidence), phase=phase)
    assert found.value == pytest.approx(value, rel=0.01)
    assert found.threshold == pytest.approx(threshold, rel=0.01)


@pytest.mark.parametrize(
    ("arm", "verdict", "words"),
    [
        (Arm(), W, "0 answers of the candidate; 200 are needed"),
        (_arm(_MS_10, devices=9), W, "the limit of 10 ms takes 10 devices"),
        (_arm(_MS_10), W, "neither above nor within the limit of 10 ms is shown"),
        (_arm(_MS_10 - 0.2), P, "8.19 ms on 20 devices, at most 8.33 ms, within the limit"),
        (_arm(_MS_10 + 0.2), F, "12.2 ms on 20 devices, at least 12 ms, above the limit"),
        (_arm(_MS_10 + 0.2, spread=0.4), W, "neither above nor within"),
    ],
)
def test_a_limit_on_a_mean_has_to_be_shown(arm: Arm, verdict: Verdict, words: str) -> None:
    """Within it as well as above it; what the devices cannot tell yet is waited for."""
    gate = "latency: {latency_ms_max: 10}"
    (found,) = _judge(gate, Evidence(latency=Arms(candidate=arm)), phase=2)
    assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence


@pytest.mark.parametrize(
    ("gate", "quantity", "base"),
    [
        ("latency: {increase_max: 0.2, %s}", "latency", _MS_10),
        ("errors: {margin: 0.1, %s}", "failed", 0.03),
        ("values: [{name: v, worse: higher, effect: 0.1, margin: 0.2, %s}]", "values", 5.0),
    ],
)
def test_an_excess_may_have_to_be_excluded(gate: str, quantity: str, base: float) -> None:
    """Asked to exclude it, 20 devices an arm pass; fewer, or such that differ more, wait."""
    asked = gate % "is_non_inferiority_needed: true"

    def found(candidate: Arm, control: Arm, gate: str = asked) -> Finding:
        arms = Arms(candidate, control)
        told = (("v", arms),) if quantity == "values" else arms
        return _judge(gate, Evidence(**{quantity: told}))[0]  # type: ignore[arg-type]

    alike, few = _arm(base), _arm(base, devices=19)
    assert found(alike, alike).verdict is P
    assert "at most" in found(alike, alike).sentence
    waiting = found(few, alike)
    assert (waiting.verdict, "20 devices each are needed" in waiting.sentence) == (W, True)
    wide = _arm(base, spread=0.5)
    assert (found(wide, wide).verdict, found(wide, wide, gate % "deadline_s: 9").verdict) == (W, P)
    assert found(_arm(base + 0.9), alike).verdict is F


@pytest.mark.parametrize(
    ("worse", "candidate", "verdict"),
    [
        ("higher", 10.0, P), ("higher", 30.0, F), ("higher", 1.0, P),
        ("lower", 10.0, P), ("lower", 1.0, F), ("lower", 30.0, P),
    ],
)  # fmt: skip
def test_business_values_have_a_side_that_is_worse(
    worse: str, candidate: float, verdict: Verdict
) -> None:
    """In their own unit, told with their own sign."""
    gates = f"values: [{{name: revenue, worse: {worse}, effect: 2.0, margin: 1.0}}]"
    arms = Arms(_arm(candidate), _arm(10.0))
    (found,) = _judge(gates, Evidence(values=(("revenue", arms),)))
    assert found.verdict is verdict, found.sentence
    assert f"{candidate:.4g} on 20 devices, 10 on 20 of the control" in found.sentence
    if verdict is F:
        beyond = "above the limit of +1" if worse == "higher" else "below the limit of -1"
        assert beyond in found.sentence


@pytest.mark.parametrize(("changed", "verdict"), [(0, P), (2, P), (3, W), (20, F)])
def test_drift_is_judged_next_to_the_control(changed: int, verdict: Verdict) -> None:
    """One bit a device: what changes for both arms is no fault of the release."""
    bits = [1.0] * changed + [0.0] * (20 - changed)
    candidate = Arm.of(bits, [0.0] * 20, 20)
    control = Arm.of([0.0] * 40, [0.0] * 40, 40)
    (found,) = _judge("drift: {}", Evidence(changed=Arms(candidate, control)))
    assert found.verdict is verdict, found.sentence
    (alike,) = _judge("drift: {}", Evidence(changed=Arms(candidate, candidate)))
    assert alike.verdict is P


def test_traffic_is_an_average_over_devices_that_ended() -> None:
    """Within the limit or above it; what others fetched so far does not count."""
    gates = "traffic: {device_bytes_max: 100}"
    assert _judge(gates, Evidence(), ended_bytes=2_000, bytes=9_000)[0].verdict is P
    assert _judge(gates, Evidence(), ended_bytes=2_001)[0].verdict is F


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        (None, W, "not asked yet"),
        (Metric(3.0, NOW), P, "3, within the limit of 5"),
        (Metric(6.0, NOW), F, "6, above the limit of 5"),
        (Metric(1.0, NOW), F, "1, below the limit of 2"),
        (Metric(3.0, NOW - 200), W, "201 s old"),
        (Metric(None, NOW, "the server cannot be asked: no"), E, "cannot be asked"),
    ],
)
def test_metrics_of_others(answer: Metric | None, verdict: Verdict, words: str) -> None:
    """An old answer says nothing, a missing server is an error, never a failure of the model."""
    gates = "metrics: [{name: cpu, url: 'http://p:9090', query: up, at_most: 5, at_least: 2}]"
    metrics = () if answer is None else (("cpu", answer),)
    (found,) = _judge(gates, Evidence(metrics=metrics))
    assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence


@pytest.mark.parametrize(
    ("changed", "devices", "verdict"), [(0, 1, P), (1, 1, W), (3, 20, P), (6, 20, W), (18, 20, F)]
)
def test_drift_without_a_control(changed: int, devices: int, verdict: Verdict) -> None:
    """One device that rang first is no share of a fleet: above the limit has to be shown."""
    bits = [1.0] * changed + [0.0] * (devices - changed)
    arms = Arms(candidate=Arm.of(bits, [0.0] * devices, devices))
    (found,) = _judge("drift: {changed_share_max: 0.2}", Evidence(changed=arms), phase=2)
    assert found.verdict is verdict, found.sentence


@pytest.mark.parametrize(("at", "verdict"), [(NOW - 8, W), (NOW - 7, W), (NOW - 6, F)])
def test_a_metric_tells_of_a_phase_that_had_offers_when_it_was_asked(
    at: float, verdict: Verdict
) -> None:
    """What was before can neither let the phase pass nor end it."""
    gates = "metrics: [{name: cpu, url: 'http://p:9090', query: up, at_most: 5}]"
    began = Counts(committed=20, offered_first=NOW - 7)
    evidence = Evidence(metrics=(("cpu", Metric(6.0, at)),))
    (found,) = _judge(gates, evidence, phases=(Counts(), began, Counts()))
    assert found.verdict is verdict, found.sentence


@pytest.mark.parametrize("gate", ["latency: {}", "drift: {}", "label_errors: {margin: 0.1}"])
def test_a_control_that_is_away_is_missing(gate: str) -> None:
    """Nobody to compare with at hand is inconclusive; only a fleet without a control needs none."""
    away = _judge(gate, Evidence(), control_devices=0, is_control_away=True)
    none = _judge(gate, Evidence(), control_devices=0)
    assert (away[0].verdict, none[0].verdict) == (W, None), away[0].sentence


def test_alpha_is_shared_by_the_gates_that_test() -> None:
    """Two gates on labels have half of it each; installs and traffic test nothing."""
    pairs = Evidence(pairs=Pairs(2, 90, 80, 60, 8, 0))
    (alone,) = _judge("shadow_pairs: {}", pairs)
    shared = _judge("shadow_pairs: {}\n  agreement: {share_min: 0}\n  latency: {}", pairs)[0]
    assert (alone.verdict, shared.verdict) == (F, P)


def test_what_is_inconclusive_has_time_left() -> None:
    """Until the longest deadline of what is missing."""
    (found,) = _judge("shadow_pairs: {deadline_s: 7200}", Evidence())
    assert found.left_s == 7_199.0


@pytest.mark.parametrize("gate", ["latency", "label_free_accuracy"])
def test_what_retention_took_some_of_is_not_taken_for_well(gate: str) -> None:
    """A gate whose answers are partly deleted says so and waits; harm that is left is harm."""
    gates = {
        "latency": "latency: {increase_max: 0.5}",
        "label_free_accuracy": "label_free_accuracy: {margin: 0.3}\n  drift: {}",
    }[gate]

    def found(level: float, deleted: tuple[str, ...]) -> Finding:
        arms = Arms(_arm(level), _arm(0.1))
        evidence = Evidence(latency=arms, promised=Promised(arms), deleted=deleted)
        return next(each for each in _judge(gates, evidence) if each.gate == gate)

    assert found(0.1, ()).verdict is P
    taken = found(0.1, (gate,))
    assert (taken.verdict, "retention deleted some" in taken.sentence) == (W, True)
    assert found(0.9, (gate,)).verdict is F
