"""The statistics: vectors from other derivations, and validity however often one looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.rollouts.statistics import (
    DEVICES_MIN,
    NON_INFERIORITY_DEVICES_MIN,
    OBSERVATIONS_MIN,
    POWER,
    Arm,
    Difference,
    compare,
    hits_beyond,
    log_evidence,
    lower_bound,
    sign_log_evidence,
    upper_bound,
)

ALPHA = 0.05
SHARES = st.floats(0.0, 1.0)


def _difference(
    value: float, variance: float = 1e-5, *, devices: int = 50, observations: int = 1_000
) -> Difference:
    return Difference(value, variance, devices, observations)


@pytest.mark.parametrize(("value", "variance"), [(0.0, 1e-5), (0.02, 1e-5), (-0.01, 4e-4)])
def test_likelihood_ratio_is_the_integral_over_effects(value: float, variance: float) -> None:
    """The closed form is the normal likelihood averaged over the effects, by quadrature."""
    difference = _difference(value, variance)
    tau = difference.tau
    effects = np.linspace(-10 * tau, 10 * tau, 200_001)
    prior = np.exp(-0.5 * (effects / tau) ** 2) / (tau * math.sqrt(2 * math.pi))
    ratios = np.exp((value**2 - (value - effects) ** 2) / (2 * variance))
    integral = float(np.sum(prior * ratios) * (effects[1] - effects[0]))
    assert difference.log_likelihood_ratio() == pytest.approx(math.log(integral), rel=1e-6)


@given(st.floats(-0.5, 0.5), st.floats(1e-8, 1e-2), st.floats(0.001, 0.2), st.floats(0, 0.1))
def test_half_width_is_the_same_test_solved(
    value: float, variance: float, alpha: float, margin: float
) -> None:
    """Harm is shown exactly where the lower end of the interval is beyond the margin."""
    difference = _difference(value, variance)
    low = value - difference.half_width(alpha)
    if not math.isclose(low, margin, rel_tol=1e-6, abs_tol=1e-9):
        assert difference.is_harm(alpha, margin) == (low > margin)


def test_comparison_by_hand() -> None:
    """Three devices an arm: slope, adjusted difference and variance as worked out on paper."""
    candidate = Arm.of([0.3, 0.5, 0.7], [0.1, 0.2, 0.3], 10_000)
    control = Arm.of([0.1, 0.2, 0.6], [0.0, 0.2, 0.4], 10_000)
    difference = compare(candidate, control)
    # xx = .02 + .08, xz = .04 + .10, zz = .08 + .14; theta = 1.4; raw .2, before 0.
    # Residual sums: .08 - 2.8*.04 + 1.96*.02 = .0072 and .14 - 2.8*.10 + 1.96*.08 = .0168.
    assert difference is not None
    assert difference.value == pytest.approx(0.2)
    assert difference.variance == pytest.approx((0.0072 + 0.0168) / 6)
    assert (difference.devices, difference.observations) == (3, 10_000)


def test_without_history_nothing_is_adjusted() -> None:
    """The variance is then that of the means themselves."""
    candidate = Arm.of([0.3, 0.5, 0.7], [0.0] * 3, 10_000)
    control = Arm.of([0.1, 0.2, 0.6], [0.0] * 3, 10_000)
    difference = compare(candidate, control)
    assert difference is not None
    assert difference.variance == pytest.approx((0.08 + 0.14) / 6)


def test_devices_that_agree_leave_the_binomial_variance() -> None:
    """A few errors not yet seen on any device are no proof that there are none."""
    arm = Arm.of([0.1] * 20, [0.0] * 20, 400)
    difference = compare(arm, arm)
    assert difference is not None
    assert difference.variance == pytest.approx(0.1 * 0.9 * 2 / 400)


def test_one_device_has_no_variance() -> None:
    """Nothing is compared where an arm does not say how devices differ."""
    assert compare(Arm.of([1.0], [0.0], 10), Arm.of([0.0] * 9, [0.0] * 9, 90)) is None


def test_too_small_arms_show_nothing() -> None:
    """Below the least devices or observations no difference is harm, and none is excluded."""
    for changes in ({"devices": DEVICES_MIN - 1}, {"observations": OBSERVATIONS_MIN - 1}):
        assert not _difference(0.9, **changes).is_harm(ALPHA)
        assert not _difference(-0.9, **changes).is_not_inferior(ALPHA, 0.5)
    few = _difference(-0.9, devices=NON_INFERIORITY_DEVICES_MIN - 1)
    assert not few.is_not_inferior(ALPHA, 0.5)
    assert _difference(-0.9, devices=NON_INFERIORITY_DEVICES_MIN).is_not_inferior(ALPHA, 0.5)


def test_detectable_effect_is_found_with_its_power() -> None:
    """Estimates that vary about the detectable effect are beyond the margin in POWER of cases."""
    known = _difference(0.0, 2e-5)
    truth = known.detectable(ALPHA, 0.01)
    values = np.random.default_rng(1).normal(truth, math.sqrt(known.variance), 20_000)
    found = np.mean([known._replace(value=value).is_harm(ALPHA, 0.01) for value in values.tolist()])
    assert found == pytest.approx(POWER, abs=0.01)


@pytest.mark.parametrize("devices", [10, 30])
def test_arms_that_are_alike_are_seldom_stopped(devices: int) -> None:
    """Devices with rates of their own, looked at forty times: at most alpha of runs are stopped."""
    generator, runs, stopped = np.random.default_rng(devices), 200, 0
    for _ in range(runs):
        rates = generator.beta(0.49, 48.51, (2, devices))
        before = generator.binomial(2_000, rates) / 2_000
        counts = generator.binomial(30, rates, (40, 2, devices)).cumsum(axis=0)
        arms = (
            [Arm.of((row / seen).tolist(), was.tolist(), devices * seen) for row, was in pairs]
            for seen, pairs in (
                (30 * (look + 1), zip(counts[look], before, strict=True)) for look in range(40)
            )
        )
        stopped += any(_is_harm(*each) for each in arms)
    assert stopped <= ALPHA * runs


def _is_harm(candidate: Arm, control: Arm) -> bool:
    difference = compare(candidate, control)
    return difference is not None and difference.is_harm(ALPHA)


def _chance_of_crossing(crosses: Callable[[int, int], bool], chances: Sequence[float]) -> float:
    """Return the exact probability that a series of trials ever crosses, trial by trial."""
    alive, crossed = {0: 1.0}, 0.0
    for seen, chance in enumerate(chances, start=1):
        after: dict[int, float] = {}
        for hits, weight in alive.items():
            for now, part in ((hits + 1, weight * chance), (hits, weight * (1 - chance))):
                if crosses(now, seen):
                    crossed += part
                else:
                    after[now] = after.get(now, 0.0) + part
        alive = after
    return crossed


@pytest.mark.parametrize(
    "chances",
    [[0.1] * 300, [0.0, 0.2] * 150, [0.02] * 100 + [0.14] * 200],
    ids=["equal", "in turn", "rising"],
)
def test_proportion_is_seldom_refuted_when_it_holds(chances: list[float]) -> None:
    """Looked at after each trial, chances of 0.1 on average are refuted with alpha at most."""
    crossing = _chance_of_crossing(
        lambda hits, seen: log_evidence(hits, seen, 0.1) > math.log(1 / ALPHA), chances
    )
    assert 0 < crossing <= ALPHA


def test_equal_models_are_seldom_told_apart() -> None:
    """Looked at after each disagreement, a fair coin is refuted with alpha at most."""
    crossing = _chance_of_crossing(
        lambda hits, seen: sign_log_evidence(hits, seen - hits) > math.log(1 / ALPHA), [0.5] * 300
    )
    assert 0.01 < crossing <= ALPHA


def test_sign_evidence_by_exact_fractions() -> None:
    """Seven disagreements lost and one won, in exact arithmetic."""
    shares = [Fraction(each, 100) for each in (55, 60, 67, 75, 85)]
    exact = sum((2 * share) ** 7 * (2 * (1 - share)) for share in shares) / len(shares)
    assert sign_log_evidence(7, 1) == pytest.approx(math.log(exact), rel=1e-12)


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.001, 0.999))
def test_evidence_grows_with_hits_and_falls_with_the_null(
    hits: int, misses: int, null: float
) -> None:
    """One hit more for one miss speaks against the null; a higher null is harder to refute."""
    trials = hits + misses + 1
    assert log_evidence(hits + 1, trials, null) > log_evidence(hits, trials, null)
    assert log_evidence(hits, trials, (null + 1) / 2) < log_evidence(hits, trials, null)


@given(st.integers(1, 2_000), SHARES, st.floats(0.001, 0.2))
def test_bounds_hold_the_estimate_and_close_in(trials: int, share: float, alpha: float) -> None:
    """The estimate lies between its bounds; ten times the trials bring them closer or as close."""
    hits = round(share * trials)
    low, high = lower_bound(hits, trials, alpha), upper_bound(hits, trials, alpha)
    assert 0 <= low <= hits / trials <= high <= 1
    assert lower_bound(10 * hits, 10 * trials, alpha) >= low - 1e-12
    assert log_evidence(hits, trials, low) >= math.log(1 / alpha) - 1e-6 or low == 0


@given(st.integers(1, 1_000), st.floats(0.01, 0.99))
def test_fewest_hits_are_the_fewest(trials: int, limit: float) -> None:
    """So many hits show a chance above the limit, one less does not."""
    threshold = math.log(1 / ALPHA)
    fewest = hits_beyond(trials, limit, ALPHA)
    if fewest is None:
        assert log_evidence(trials, trials, limit) <= threshold
    else:
        assert log_evidence(fewest, trials, limit) > threshold
        assert log_evidence(fewest - 1, trials, limit) <= threshold
