"""What is said of windows: changes ring, offsets, seasons and silence do not; intervals hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isnan

import msgspec
import numpy as np
import pytest

from firmware_bundles.sketches import baseline, evidence, fairness, intervals, performance, skew
from firmware_bundles.sketches import watch as watching
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.change import QUESTIONS, Reference
from firmware_bundles.sketches.outcomes import Outcomes
from firmware_bundles.sketches.performance import Standing
from firmware_bundles.sketches.significance import cells, rate_p, tolerated_rate
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.sketches.special import ncx2_sf
from firmware_bundles.sketches.watch import Settings, Span, State, Verdict, Watch

FEATURES, ROWS, DAY = 5, 300, 86_400.0
SETTINGS = Settings(reference_rows=3_000)


def _facts(*, cycle_s: float | None = None) -> Baseline:
    random = np.random.default_rng(1)
    rows = random.normal(size=(4_000, FEATURES)).astype(np.float32)
    scores = random.dirichlet([2, 1], 4_000).astype(np.float32)
    made = baseline.make({"x": rows}, scores, ("no", "yes"), truth=random.integers(0, 2, 4_000))
    return made if cycle_s is None else msgspec.structs.replace(made, cycle_s=cycle_s)


FACTS = _facts()


def _window(
    seed: int,
    rows: int = ROWS,
    facts: Baseline = FACTS,
    *,
    x1: float = 0.0,
    missing1: float = 0.0,
    outside1: float = 0.0,
    prior: float = 0.0,
) -> Sketch:
    """A window of a device with an offset; x1 shifts feature 1, missing1 loses it that often."""
    random, sketch = np.random.default_rng(seed), Sketch(facts)
    values = random.normal(0.15, 1, (rows, FEATURES)).astype(np.float32)
    values[:, 1] += x1
    values[random.uniform(size=rows) < missing1, 1] = np.nan
    values[random.uniform(size=rows) < outside1, 1] = 1e6
    weights = [2, 1 + prior]
    sketch.update(values, random.dirichlet(weights, rows).astype(np.float32))
    return sketch


def _run(sketches: list[Sketch], settings: Settings = SETTINGS) -> list[Verdict]:
    state, verdicts = Watch(), []
    for number, sketch in enumerate(sketches):
        state, verdict = watching.advance(
            state, Span(sketch, number * DAY, (number + 1) * DAY), settings
        )
        verdicts.append(verdict)
    return verdicts


def test_a_device_with_an_offset_is_commissioned_and_then_stable() -> None:
    """Until the reference is complete nothing is tested; then its constant offset never rings."""
    states = [verdict.state for verdict in _run([_window(seed) for seed in range(40)])]
    assert states[:10] == [State.COMMISSIONING] * 10
    assert set(states[10:]) == {State.STABLE}


@pytest.mark.parametrize(
    ("changed", "column", "question"),
    [
        (partial(_window, x1=0.6), "x[1]", "shape"),
        (partial(_window, missing1=0.1), "x[1]", "missing"),
        (partial(_window, outside1=0.1), "x[1]", "out_of_range"),
        (partial(_window, prior=2.0), "class", "shape"),
    ],
)
def test_a_change_names_its_column_and_question(
    changed: Callable[[int], Sketch], column: str, question: str
) -> None:
    """A shift, missing values, values out of range and other predictions are told apart."""
    quiet = [_window(seed) for seed in range(12)]
    verdicts = _run([*quiet, *(changed(seed) for seed in range(50, 60))])
    alarm = next(verdict for verdict in verdicts if verdict.state is State.CHANGED)
    named = {(finding.column, finding.question) for finding in alarm.findings}
    assert (column, question) in named
    assert alarm.findings[0].column in (column, "no", "yes", "confidence")
    assert alarm.score >= SETTINGS.threshold


def test_a_change_that_persists_rings_again() -> None:
    """After an alarm the evidence starts anew against the same reference."""
    shifted = [_window(seed, x1=1.0) for seed in range(50, 62)]
    states = [verdict.state for verdict in _run([*(_window(seed) for seed in range(10)), *shifted])]
    assert states.count(State.CHANGED) >= 2


def test_a_step_is_sudden_and_a_ramp_is_not() -> None:
    """How long the evidence grew tells a step from slow drift."""
    quiet = [_window(seed) for seed in range(10)]
    step = _run([*quiet, *(_window(seed, x1=1.0) for seed in range(50, 60))])
    ramp = _run([*quiet, *(_window(50 + at, x1=0.03 * at) for at in range(30))])
    first = [
        next(verdict for verdict in verdicts if verdict.state is State.CHANGED).findings[0]
        for verdicts in (step, ramp)
    ]
    assert first[0].is_sudden
    assert not first[1].is_sudden


def test_only_full_windows_over_whole_cycles_are_tested() -> None:
    """Parts of a day are gathered until they are a day, and few rows until they are enough."""
    facts = _facts(cycle_s=DAY)
    state, states = Watch(), []
    for number in range(60):
        span = Span(_window(number, facts=facts), number * DAY / 4, (number + 1) * DAY / 4)
        state, verdict = watching.advance(state, span, SETTINGS)
        states.append(verdict.state)
    assert states[:12] == [State.COMMISSIONING] * 12
    assert states[12:16] == [*[State.INCONCLUSIVE] * 3, State.STABLE]
    few = [_window(seed) for seed in range(10)] + [_window(99, rows=299)]
    assert _run(few)[-1].state is State.INCONCLUSIVE


def test_a_window_of_too_few_known_values_leaves_its_stream() -> None:
    """Where most values are missing the shape is not tested, and its evidence stays."""
    reference = Reference(_window(1, rows=3_000), ROWS)
    p = reference.p_values(_window(2, missing1=0.9))
    columns = len(FACTS.columns)
    assert isnan(p[1])
    assert p[columns + 1] < 1e-14
    before = evidence.nothing(len(QUESTIONS) * columns)
    after = evidence.advance(before, p)
    assert after.scores[1] == 1.0
    assert after.scores[columns + 1] > 1e6


def test_the_tolerance_null_is_conservative() -> None:
    """Of windows that are drawn like the reference no more than 1 % have p below .01."""
    reference = Reference(_window(1, rows=3_000), ROWS)
    p = np.stack([reference.p_values(_window(seed)) for seed in range(100, 160)])
    assert np.nanmean(p < 0.01) <= 0.01


def test_scores_are_capped() -> None:
    """Evidence never outgrows a float."""
    state = evidence.nothing(2)
    for _ in range(200):
        state = evidence.advance(state, np.array([0.0, 1.0]))
    assert np.isfinite(state.score)
    assert state.ages.tolist() == [200, 1]


def test_e_values_have_a_mean_of_at_most_one() -> None:
    """The calibrator integrates to one over uniform p-values."""
    p = (np.arange(1_000_000) + 0.5) / 1_000_000
    assert evidence.e_values(p).mean() == pytest.approx(1.0, abs=1e-3)


def test_small_neighbours_join_until_they_expect_enough() -> None:
    """A rest joins the last cell."""
    assert cells(np.array([1.0, 2, 20, 3, 30, 1]), 15.0).tolist() == [0, 0, 0, 1, 1, 1]
    assert cells(np.array([1.0, 2]), 15.0).tolist() == [0, 0]


def test_a_rate_is_tolerated_up_to_the_references_own_error() -> None:
    """None missing of 5,000 still tolerates half a per cent; five per cent of a window do not."""
    tolerated = tolerated_rate(0, 5_000, 66)
    assert tolerated == 0.005
    assert rate_p(1, 300, tolerated) == 1.0
    assert rate_p(15, 300, tolerated) < 1e-8


def test_intervals_of_skew_hold_the_truth() -> None:
    """Of 100 shifts of .2 sd, each against a baseline of its own rows, nine in ten are held."""
    random, held = np.random.default_rng(8), 0
    for _ in range(20):
        rows = random.normal(size=(500, FEATURES)).astype(np.float32)
        facts = baseline.make({"x": rows}, np.zeros((500, 0), dtype=np.float32), ())
        sketch = Sketch(facts)
        seen = random.normal(0.2, 1, (400, FEATURES)).astype(np.float32)
        sketch.update(seen, np.zeros((400, 0), dtype=np.float32))
        held += sum(one.shift_low < 0.2 < one.shift_high for one in skew.skews(sketch))
    assert 90 <= held <= 100


def test_skews_are_ranked() -> None:
    """The column that surely differs most is first, and its excess is apart from the others'."""
    found = skew.skews(_window(3, rows=3_000, x1=0.5))
    assert found[0].column == "x[1]"
    assert found[0].excess_low > found[1].excess_high


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_what_is_surely_beyond_is_what_the_intervals_say(shift: float) -> None:
    """The quick answer is the same as that of the lower ends."""
    for seed in range(3):
        sketch = _window(seed, rows=1_000, x1=shift)
        lowest = max(each.excess_low for each in skew.skews(sketch))
        for threshold in (0.01, 0.05, 0.1, 0.3):
            assert skew.is_surely_beyond(sketch, threshold) is (lowest > threshold)
    assert not skew.is_surely_beyond(Sketch(FACTS), 0.1)


def test_skew_without_rows_says_nothing() -> None:
    """An empty sketch has no shift and any excess."""
    first = skew.skews(Sketch(FACTS))[0]
    assert isnan(first.shift)
    assert (first.n, first.excess, first.excess_low) == (0, 0.0, 0.0)


def test_a_confidence_sequence_holds_at_every_look() -> None:
    """Of 200 models of .9 accuracy at most 5 % are ever excluded in 30 looks."""
    random, excluded = np.random.default_rng(4), 0
    for _ in range(200):
        right = np.cumsum(random.uniform(size=300) < 0.9)
        rates = (intervals.confidence_sequence(int(right[at]), at + 1) for at in range(9, 300, 10))
        excluded += any(not rate.low <= 0.9 <= rate.high for rate in rates)
    assert excluded <= 10


def test_accuracy_stands_above_below_or_nowhere() -> None:
    """A floor is kept or broken only when the whole interval says so."""
    assert performance.standing(intervals.confidence_sequence(990, 1000), 0.95) is Standing.ABOVE
    assert performance.standing(intervals.confidence_sequence(800, 1000), 0.95) is Standing.BELOW
    assert performance.standing(intervals.confidence_sequence(9, 10), 0.95) is Standing.INCONCLUSIVE
    assert performance.standing(intervals.confidence_sequence(0, 0), 0.95) is Standing.INCONCLUSIVE


def test_rates_on_labels_count_what_they_say() -> None:
    """Accuracy, recall and precision by hand; no answer is a wrong one."""
    outcomes = Outcomes(2, 2)
    outcomes.update(
        np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, -1])
    )
    found = performance.performance(outcomes)
    assert (found.accuracy.k, found.accuracy.n) == (3, 5)
    assert [(rate.k, rate.n) for rate in found.segments] == [(2, 3), (1, 2)]
    assert [(rate.k, rate.n) for rate in found.recall] == [(1, 2), (2, 3)]
    assert [(rate.k, rate.n) for rate in found.precision] == [(1, 1), (2, 3)]


def test_label_free_accuracy_needs_a_table_and_answers() -> None:
    """Without calibration or rows there is no estimate rather than a guess."""
    bare = msgspec.structs.replace(FACTS, right=msgspec.UNSET)
    assert performance.label_free(_window(1, facts=bare), is_drifting=False) is None
    assert performance.label_free(Sketch(FACTS), is_drifting=False) is None
    found = performance.label_free(_window(1), is_drifting=True)
    assert found is not None
    assert found.is_drifting
    assert found.accuracy == pytest.approx(0.5, abs=0.05)


def test_small_segments_are_suppressed_and_named() -> None:
    """A rate of few rows is not compared; with one segment left there is no gap."""
    answers = np.array([[0, 50, 50], [0, 150, 50], [0, 3, 2]])
    gap = fairness.demographic_parity(answers, ("", "day", "night"), favourable=1)
    assert gap.suppressed == ("night",)
    assert gap.difference == 0.25
    assert 0 < gap.low < 0.25 < gap.high
    assert isnan(fairness.demographic_parity(answers[1:], ("day", "night"), 1).difference)


def test_intervals_of_excess_agree_with_the_exact_law() -> None:
    """The noncentrality found by an approximate law is within .3 of that of the exact one."""
    for df in (1, 4, 9, 22):
        for statistic in (2.0, 10.0, 40.0, 300.0):
            for tail in (0.025, 0.975):
                found = skew._noncentralities(np.array([statistic]), np.array([float(df)]), tail)
                exact = float(ncx2_sf(statistic, df, float(found[0])))
                beside = [
                    float(ncx2_sf(statistic, df, max(0.0, found[0] + d))) for d in (-0.3, 0.3)
                ]
                assert beside[0] <= tail <= beside[1] or (found[0] == 0 and exact >= tail)
