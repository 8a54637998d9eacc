"""What the devices of a rollout add up to by arm, from the rows of their telemetry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.fleet.selectors import Selector
from control_plane.rollouts.evidence import Arms
from control_plane.rollouts.executor import Executor
from control_plane.rollouts.gate_specs import LatencyGate
from control_plane.rollouts.statistics import Arm
from control_plane.store import device_sums, latency_sums
from control_plane.store.rollouts import Rollouts
from firmware_bundles.wire.messages import Arm as WireArm
from support.control_planes import Clock
from support.rollout_fleet import RowFleet, digest, rollout

SPEC = """
family: digits
release: "2"
cohort: all
phases:
  - {share: 0.25, soak_s: 5, timeout_s: 60}
  - {share: 1.0, soak_s: 5, timeout_s: 60}
gates:
  label_errors: {margin: 0.1, labels_min: 50, deadline_s: 30}
"""


class World:
    """Eight devices that serve version 1, and an executor."""

    def __init__(self, folder: Path) -> None:
        self.fleet = RowFleet(folder, size=8)
        self.fleet.serve("1")
        self.rollouts = Rollouts(self.fleet.database)
        self.clock = Clock(1_000.0)
        self.executor = Executor(self.rollouts, lambda _devices: None, self.clock)

    def start(self, text: str = SPEC) -> None:
        """Create a rollout over all devices."""
        self.rollouts.create(rollout(text), Selector())

    def tick(self) -> None:
        """Let a second pass, and the executor act."""
        self.clock.now += 1.0
        self.executor.tick()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Eight devices."""
    made = World(tmp_path)
    yield made
    made.fleet.database.close()


def test_business_values_and_latency_stand_by_device_and_arm(world: World) -> None:
    """Since the first offer the candidate's, before it the other models', in the unit of each."""
    first_offer = world.clock.now
    for device_id in world.fleet.devices:
        world.fleet.measure(device_id, "1", [1.0, 2.0], at=first_offer - 10.0)
    world.start()
    world.tick()
    (candidate, *_), others = sorted(world.fleet.offered("2")), set(world.fleet.devices)
    control = min(others - world.fleet.offered("2"))
    for version in ("1", "2"):
        world.fleet.measure(candidate, version, [5.0, 6.0, 7.0], at=world.clock.now)
        world.fleet.measure(control, version, [4.0], at=world.clock.now)
    found = world.rollouts.get("example")
    with world.fleet.database.reading() as connection:
        since = world.clock.now, first_offer
        revenue = device_sums.values(connection, found, "revenue", *since)
        nothing = device_sums.values(connection, found, "clicks", *since)
        latency = device_sums.log_latencies(connection, found, *since)
    before = device_sums.Moments(2, 3.0, 5.0)
    assert {each.device_id: each for each in revenue} == {
        candidate: device_sums.DeviceSums(
            candidate, WireArm.CANDIDATE, before, device_sums.Moments(3, 18.0, 110.0)
        ),
        control: device_sums.DeviceSums(
            control, WireArm.CONTROL, before, device_sums.Moments(1, 4.0, 16.0)
        ),
    }
    assert nothing == []
    assert [each.since for each in latency] == [each.since for each in revenue]
    sums = device_sums.arms(revenue)
    assert sums[WireArm.CANDIDATE] == Arm.of([6.0], [1.5], 3)
    assert sums[WireArm.CONTROL] == Arm.of([4.0], [1.5], 1)


def test_percentiles_stand_by_device_and_arm(world: World) -> None:
    """Of all segments of a device together, those with too few answers left out."""
    first_offer = world.clock.now
    for device_id in world.fleet.devices:
        world.fleet.answer(device_id, "1", [1_000] * 30 + [4_000] * 10, first_offer - 10.0)
    world.start()
    world.tick()
    candidate, few = sorted(world.fleet.offered("2"))
    control = min(set(world.fleet.devices) - world.fleet.offered("2"))
    for count in (5, 10, 20):
        world.clock.now += 1.0
        world.fleet.answer(candidate, "2", [2_000] * count, world.clock.now)
        world.fleet.answer(control, "1", [1_000] * count, world.clock.now)
        world.fleet.answer(control, "2", [9_000] * 90, world.clock.now)
    world.fleet.answer(few, "2", [9_000] * 19, world.clock.now)
    gate = LatencyGate(percentile=50)
    with world.fleet.database.reading() as connection:
        found = latency_sums.of_gate(
            connection, world.rollouts.get("example"), gate, first_offer, first_offer
        )
    told = {each.device_id: each for each in found}
    assert few not in told
    for device_id, arm, us in (
        (candidate, WireArm.CANDIDATE, 2_000),
        (control, WireArm.CONTROL, 1_000),
    ):
        one = told[device_id]
        assert (one.arm, one.before.n, one.since.n) == (arm, 40, 35)
        assert _us(one.before) == pytest.approx(1_000, rel=0.022)
        assert _us(one.since) == pytest.approx(us, rel=0.022)


def _us(moments: device_sums.Moments) -> float:
    return math.expm1(moments.total / moments.n)


GUESSED = SPEC.replace("label_errors:", "label_free_accuracy: {}\n  drift: {}\n  label_errors:")


def test_devices_that_drift_promise_nothing(world: World) -> None:
    """What confidences promise is summed up by arm, without devices whose input changed."""
    world.start(GUESSED)
    world.tick()
    candidate, drifting = sorted(world.fleet.offered("2"))
    control = min(set(world.fleet.devices) - world.fleet.offered("2"))
    world.clock.now += 1.0
    for device_id, version, state in (
        (candidate, "2", "stable"),
        (drifting, "2", "changed"),
        (control, "1", "commissioning"),
    ):
        right = 270.0 if device_id == candidate else 225.0
        world.fleet.promise(device_id, version, 300, right, at=world.clock.now, state=state)
        world.fleet.report(device_id, generation=1, state="committed", serving=digest(version))
    found = world.rollouts.view(world.rollouts.get("example")).evidence
    assert found.promised.arms == Arms(Arm.of([0.1], [0.0], 300), Arm.of([0.25], [0.0], 300))
    assert found.promised.drifting == (1, 0)
    assert found.changed == Arms(Arm.of([0.0, 1.0], [0.0, 0.0], 2), Arm())
