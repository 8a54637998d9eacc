"""Simulated rollouts: the planner decides, chance comes from the seed, assumptions show."""

from __future__ import annotations

import random
import statistics

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.rollouts.model import Rollout, RolloutState, Standing
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.simulate import Run, run, summarize
from control_plane.rollouts.world import World, arrivals, device_errors, hits

QUICK = """
family: digits
release: "2"
cohort: all
phases:
  - {count: 2, soak_s: 100, timeout_s: 3600}
  - {share: 1.0, soak_s: 200, timeout_s: 3600}
probation_s: 30
"""
LABELLED = """
family: digits
release: "2"
cohort: all
phases:
  - {share: 0.5, soak_s: 7200}
  - {share: 1.0, soak_s: 100}
gates:
  label_errors: {margin: 0.02, labels_min: 400, error_rate_max: 0.5}
"""
WORLD = World(members=20, model_bytes=1_000, bytes_per_s=100.0, install_s=5.0)


def simulated(text: str, world: World = WORLD, seed: int = 1) -> Run:
    """Run a rollout file over a world."""
    spec = parse(text)
    path = f"{spec.family}/{spec.release}/manifest.json"
    rollout = Rollout(id="simulated", spec=spec, release_path=path, standing=Standing())
    return run(rollout, world, random.Random(seed))


def test_a_perfect_fleet_takes_what_the_plan_says() -> None:
    """Two phases: each fetches for 10 s, installs for 5, is on probation for 30, and soaks."""
    found = simulated(QUICK)
    assert found.state is RolloutState.COMPLETED
    assert found.soaked_s == 300
    assert found.duration_s - found.soaked_s == pytest.approx(2 * (2 + 10 + 5 + 30), abs=10)
    assert found.bytes == 20 * 1_000
    assert found.served_max == 20
    assert found.lines[0].why == ("phase 1 of 2 begins: 2 devices to offer to",)
    assert "completed: by signed report, 20 devices" in found.lines[-1].why[-1]


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=10)
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    """A simulation can be repeated, and argued about."""
    world = msgspec.structs.replace(WORLD, failed=0.1, offline=0.3, slow=0.2, labels_per_h=30.0)
    assert simulated(LABELLED, world, seed) == simulated(LABELLED, world, seed)


def test_failing_devices_stop_it() -> None:
    """What the gate on installs does to a fleet is what it does in the simulation."""
    found = simulated(QUICK, msgspec.structs.replace(WORLD, failed=1.0))
    assert found.state is RolloutState.ROLLED_BACK
    assert (found.phase, found.served_max) == (0, 2)
    assert "2 of 2 devices failed or rolled back" in " ".join(found.lines[-2].why)


def test_silent_devices_pause_it_when_their_time_is_over() -> None:
    """Silence is no success: after the timeout a person is asked."""
    found = simulated(QUICK, msgspec.structs.replace(WORLD, silent=1.0))
    assert found.state is RolloutState.PAUSED
    assert found.duration_s == pytest.approx(3_600, abs=1)
    assert found.bytes == 0


def test_devices_that_are_away_make_it_longer() -> None:
    """The rollout waits for those that come back."""
    away = msgspec.structs.replace(WORLD, offline=1.0, offline_s=600.0)
    later = [simulated(QUICK, away, seed).duration_s for seed in range(5)]
    assert statistics.median(later) > simulated(QUICK).duration_s + 600


def test_slow_devices_make_it_longer() -> None:
    """Fetching and installing take a slow device so many times as long."""
    slow = msgspec.structs.replace(WORLD, slow=1.0, slow_factor=5.0)
    assert simulated(QUICK, slow).duration_s - simulated(QUICK).duration_s == pytest.approx(
        2 * 4 * 15, abs=20
    )


def test_harm_is_found_and_a_like_candidate_is_not_stopped() -> None:
    """The gate sees the simulated labels: it stops harm, and lets its like pass."""
    world = msgspec.structs.replace(WORLD, members=40, labels_per_h=60.0)
    like = summarize([simulated(LABELLED, world, seed) for seed in range(8)])
    worse = msgspec.structs.replace(world, excess=0.2)
    harm = summarize([simulated(LABELLED, worse, seed) for seed in range(8)])
    assert like.stopped <= 1 / 8
    assert harm.stopped == 1.0
    assert harm.outcomes == {"rolled_back": 8}
    assert harm.phases_stopped == {"phase 1": 8}


@pytest.mark.parametrize(
    "gate",
    ["latency: {}", "errors: {}", "crashes: {}", "drift: {margin: 0.1}", "energy: {}"],
)
def test_gates_between_arms_see_what_devices_measure(gate: str) -> None:
    """A candidate that is worse in what a gate compares is stopped, its like goes to the end."""
    text = LABELLED.replace(
        "label_errors: {margin: 0.02, labels_min: 400, error_rate_max: 0.5}", gate
    )
    world = World(members=400, model_bytes=1_000)
    good = summarize([simulated(text, world, seed) for seed in range(8)])
    assert good.outcomes.get("rolled_back", 0) == 0
    assert good.outcomes["completed"] >= 7
    worse = msgspec.structs.replace(world, is_worse=True)
    harm = summarize([simulated(text, worse, seed) for seed in range(8)])
    assert harm.outcomes["rolled_back"] >= 7


def test_approval_rate_and_window_are_kept() -> None:
    """Somebody approves after a while, waves come at their rate, and devices wait for the night."""
    text = """
family: digits
release: "2"
cohort: all
phases:
  - {share: 1.0, soak_s: 0, approval: true, rate: {devices: 5, per_s: 600}}
policy: {conditions: {window: "10:00-12:00"}}
"""
    world = msgspec.structs.replace(WORLD, approval_s=1_000.0)
    found = simulated(text, world)
    assert found.state is RolloutState.COMPLETED
    assert "was approved by simulated" in " ".join(found.lines[1].why)
    assert 10 * 3_600 <= found.duration_s <= 12 * 3_600


def test_budgets_hold_offers() -> None:
    """Once the budget of bytes is used up, it pauses."""
    text = QUICK.replace("share: 1.0,", "share: 1.0, rate: {devices: 5, per_s: 60},")
    found = simulated(text + "budgets: {bytes_max: 1000}\n")
    assert (found.state, found.bytes) == (RolloutState.PAUSED, 2_000)


def test_a_summary_counts_ends_and_quantiles() -> None:
    """Of many runs: how they ended, and 10 %, the median and 90 % of what they took."""
    runs = [
        Run(
            state=RolloutState.COMPLETED if place else RolloutState.PAUSED,
            duration_s=float(place),
            soaked_s=0.0,
            bytes=place,
            phase=1,
            served_max=place,
        )
        for place in range(11)
    ]
    found = summarize(runs)
    assert found.outcomes == {"completed": 10, "paused": 1}
    assert found.duration_s == (1.0, 5.0, 9.0)
    assert found.stopped == 1 / 11
    assert found.phases_stopped == {"phase 2": 1}


@pytest.mark.parametrize(("trials", "share"), [(10, 0.0), (10, 1.0), (20, 0.3), (500, 0.02)])
def test_chance_has_the_mean_that_was_asked_for(trials: int, share: float) -> None:
    """Hits and arrivals are drawn by the laws that they stand for."""
    chance = random.Random(trials)
    found = [hits(chance, trials, share) for _ in range(4_000)]
    assert all(0 <= each <= trials for each in found)
    assert statistics.mean(found) == pytest.approx(trials * share, abs=0.02 * trials)
    mean = trials * share
    came = statistics.mean(arrivals(chance, mean) for _ in range(4_000))
    assert came == pytest.approx(mean, abs=0.05 * mean + 0.1)


def test_devices_differ_by_the_spread() -> None:
    """Shares of wrong labels have the mean and the variance of a beta law."""
    chance, world = random.Random(7), World(members=1, errors=0.1, spread=0.05)
    drawn = [device_errors(chance, world) for _ in range(5_000)]
    assert statistics.mean(drawn) == pytest.approx(0.1, abs=0.005)
    assert statistics.variance(drawn) == pytest.approx(0.1 * 0.9 * 0.05, rel=0.15)
    drifting = msgspec.structs.replace(world, drifting=1.0)
    doubled = statistics.mean(device_errors(chance, drifting) for _ in range(5_000))
    assert doubled == pytest.approx(0.2, abs=0.01)
