"""Gates are seldom wrong however often one looks: fleets that are alike, looked at each minute."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.rollouts.evidence import Arms, Evidence, Promised
from control_plane.rollouts.gates import INSTALLS, judge
from control_plane.rollouts.model import (
    Counts,
    FleetView,
    PhaseState,
    Rollout,
    Standing,
    Verdict,
)
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.statistics import Arm
from control_plane.telemetry import latency_bins

ALPHA = 0.05
LOOKS = 240
DEVICES = 10
SPEC = """
family: digits
release: "2"
cohort: all
phases:
  - {count: 10}
  - {share: 1.0}
gates: {%s}
"""
Floats = NDArray[np.float64]


def _rollout(gates: str, phase: int = 0) -> Rollout:
    standing = Standing(phase=phase, phase_state=PhaseState.SOAKING, since=0.0)
    return Rollout(id="r", spec=parse(SPEC % gates), release_path="p", standing=standing)


def _verdicts(rollout: Rollout, evidence: Evidence) -> set[Verdict | None]:
    """Return what the gates find, but that on installs."""
    view = FleetView(
        phases=(Counts(committed=DEVICES), Counts(committed=DEVICES)),
        members=2 * DEVICES,
        control_devices=0 if rollout.standing.phase else DEVICES,
        evidence=evidence,
    )
    return {each.verdict for each in judge(rollout, view, 1.0) if each.gate != INSTALLS}


def _share_stopped(rollout: Rollout, runs: list[Iterator[Evidence]]) -> float:
    """Return the share of runs that are stopped at any look."""
    stopped = [any(Verdict.FAIL in _verdicts(rollout, each) for each in run) for run in runs]
    return sum(stopped) / len(stopped)


def _percentiles(bins: NDArray[np.intp], share: float) -> Floats:
    """Return the percentile of each device from its bins [arms, devices, answers]."""
    flat = bins.reshape(-1, bins.shape[-1])
    counts = np.stack([np.bincount(row, minlength=latency_bins.BINS) for row in flat])
    told = [_pairs(row) for row in counts]
    found = [latency_bins.quantile(each, share) for each in told]
    logs = [np.log1p(each.us) for each in found if each is not None]
    return np.array(logs).reshape(bins.shape[:2])


def _pairs(counts: NDArray[np.intp]) -> bytes:
    places = np.flatnonzero(counts)
    return np.stack((places, counts[places]), axis=1).astype("<u2").tobytes()


def _latencies(generator: np.random.Generator, share: float) -> Iterator[Evidence]:
    """Twenty answers a minute of devices whose speeds lie 10 % apart, with long tails."""
    speed = generator.normal(np.log(10_000), 0.1, (2, DEVICES, 1))

    def answers(count: int) -> NDArray[np.intp]:
        us = np.exp(speed + generator.gamma(2.0, 0.3, (2, DEVICES, count)))
        return np.searchsorted(latency_bins.BOUNDS_US, us, side="right")

    before, since = _percentiles(answers(2_000), share), answers(20 * LOOKS)
    for seen in range(200, 20 * LOOKS + 1, 20):
        now = _percentiles(since[..., :seen], share)
        candidate, control = (
            Arm.of(z.tolist(), x.tolist(), DEVICES * seen) for z, x in zip(now, before, strict=True)
        )
        yield Evidence(latency=Arms(candidate, control))


def test_slow_tails_that_are_alike_are_seldom_stopped() -> None:
    """Devices with speeds of their own, no increase allowed: alpha of runs at most."""
    generator = np.random.default_rng(7)
    rollout = _rollout("latency: {percentile: 95, increase_max: 0}")
    assert _share_stopped(rollout, [_latencies(generator, 0.95) for _ in range(20)]) <= ALPHA


def _watts(generator: np.random.Generator) -> Iterator[Evidence]:
    """Machines of very different power, each minute a tenth above or below its own."""
    own = generator.normal(1.0, 0.3, (2, DEVICES, 1))
    before = np.log(np.exp(own + generator.normal(0, 0.1, (2, DEVICES, 1_440))).mean(axis=2))
    used = np.exp(own + generator.normal(0, 0.1, (2, DEVICES, LOOKS))).cumsum(axis=2)
    for seen in range(1, LOOKS + 1):
        now = np.log(used[..., seen - 1] / seen)
        arms = (
            Arm.of(z.tolist(), x.tolist(), DEVICES * seen) for z, x in zip(now, before, strict=True)
        )
        yield Evidence(watts=Arms(*arms))


def test_machines_that_use_alike_are_seldom_stopped() -> None:
    """No increase allowed, power that differs by a third: alpha of runs at most."""
    generator = np.random.default_rng(9)
    rollout = _rollout("energy: {increase_max: 0}")
    assert _share_stopped(rollout, [_watts(generator) for _ in range(60)]) <= ALPHA


def _promises(generator: np.random.Generator) -> Iterator[Evidence]:
    """Devices whose answers differ in how sure they are, twenty rows a minute."""
    wrong = generator.beta(0.49, 9.31, (2, DEVICES, 1))
    before = (wrong * generator.uniform(0, 2, (2, DEVICES, 2_000))).mean(axis=2)
    chances = (wrong * generator.uniform(0, 2, (2, DEVICES, 20 * LOOKS))).cumsum(axis=2)
    for seen in range(20, 20 * LOOKS + 1, 20):
        now = chances[..., seen - 1] / seen
        arms = (
            Arm.of(z.tolist(), x.tolist(), DEVICES * seen) for z, x in zip(now, before, strict=True)
        )
        yield Evidence(promised=Promised(Arms(*arms)))


def test_confidences_that_promise_alike_are_seldom_stopped() -> None:
    """No margin, devices that are unlike each other: alpha of runs at most."""
    generator = np.random.default_rng(8)
    # Of two gates that test each has half of alpha.
    rollout = _rollout("alpha: 0.1, label_free_accuracy: {margin: 0}, errors: {}")
    assert _share_stopped(rollout, [_promises(generator) for _ in range(60)]) <= ALPHA


def _deaths(
    generator: np.random.Generator, a_day: float, spread: float = 0.6, every: int = 1
) -> Iterator[Evidence]:
    """Workers that die by chance, on each device so much more or less often than on average."""
    rates = a_day / 1_440 * generator.choice([1 - spread, 1 + spread], (2, DEVICES, 1))
    before = generator.poisson(rates[..., 0] * 1_440) / 1_440
    deaths = generator.poisson(rates, (2, DEVICES, LOOKS)).cumsum(axis=2)
    for seen in range(every, LOOKS + 1, every):
        arms = (
            Arm.of((died / seen).tolist(), x.tolist(), DEVICES * seen)
            for died, x in zip(deaths[..., seen - 1], before, strict=True)
        )
        yield Evidence(deaths=Arms(*arms))


@pytest.mark.parametrize("a_day", [1.0, 10.0, 200.0])
def test_workers_that_die_alike_are_seldom_stopped(a_day: float) -> None:
    """Rare deaths and frequent ones, none more allowed: alpha of runs at most."""
    generator = np.random.default_rng(10)
    rollout = _rollout("crashes: {margin: 0}")
    assert _share_stopped(rollout, [_deaths(generator, a_day) for _ in range(60)]) <= ALPHA


@pytest.mark.parametrize("a_day", [1.0, 10.0, 200.0])
def test_deaths_at_the_limit_are_seldom_stopped(a_day: float) -> None:
    """A fleet whose rate is the limit: alpha of runs at most."""
    generator = np.random.default_rng(11)
    rollout = _rollout(f"crashes: {{crashes_max: {a_day}}}", phase=1)
    runs = [_deaths(generator, a_day, 0.0, 10) for _ in range(60)]
    assert _share_stopped(rollout, runs) <= ALPHA


def _values(generator: np.random.Generator, spread: float) -> Iterator[Evidence]:
    """Devices around 5, so far apart, and each minute's value far from its device's."""
    own = generator.normal(5.0, spread, (DEVICES, 1))
    summed = (own + generator.normal(0.0, 0.3, (DEVICES, LOOKS))).cumsum(axis=1)
    for seen in range(20, LOOKS + 1):
        arm = Arm.of((summed[:, seen - 1] / seen).tolist(), [0.0] * DEVICES, DEVICES * seen)
        yield Evidence(values=(("v", Arms(candidate=arm)),))


@pytest.mark.parametrize("worse", ["higher", "lower"])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
def test_means_at_the_limit_are_seldom_decided(worse: str, spread: float) -> None:
    """However little or much devices differ, neither FAIL nor PASS beyond alpha of runs."""
    generator = np.random.default_rng(12)
    gate = f"values: [{{name: v, worse: {worse}, effect: 0.1, limit: 5}}]"
    rollout = _rollout(gate, phase=1)
    runs = [
        {verdict for each in _values(generator, spread) for verdict in _verdicts(rollout, each)}
        for _ in range(60)
    ]
    for verdict in (Verdict.FAIL, Verdict.PASS):
        assert sum(verdict in run for run in runs) <= ALPHA * len(runs)
