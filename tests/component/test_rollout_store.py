"""The store's set-based statements against the rules told device by device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from control_plane.fleet.selectors import Selector
from control_plane.rollouts import verbs
from control_plane.rollouts.model import Plan, Rollout
from control_plane.rollouts.planner import plan
from control_plane.store.rollouts import Rollouts
from support.device_order import arrange
from support.rollout_fleet import FAMILY, RowFleet, digest, rollout
from support.rollout_reference import ReferenceFleet

SIZE = 12
OFFSETS = (None, 0, 540)
HOUR_S = 3_600.0
SPEC = """
family: digits
release: "2"
cohort: all
hold_out: {count: 2}
phases:
  - {share: 0.5, mode: shadow, soak_s: 0, timeout_s: 60}
  - {share: 0.25, soak_s: 0, timeout_s: 60, rate: {devices: 2, per_s: 10}}
  - {share: 1.0, soak_s: 0, timeout_s: 90000, window: "22:00-05:00"}
policy: {shadow: {share: 1.0}}
"""


class Pair:
    """One rollout over rows, and over the reference fleet, step by step the same."""

    def __init__(self, folder: Path) -> None:
        self.rows = RowFleet(folder, SIZE, OFFSETS)
        self.rows.serve("1")
        self.rollouts = Rollouts(self.rows.database)
        wanted = rollout(SPEC)
        self.rollouts.create(wanted, Selector())
        self.order = arrange(wanted.id, self.rows.devices)
        known = [OFFSETS[self.rows.devices.index(each) % len(OFFSETS)] for each in self.order]
        self.reference = ReferenceFleet(SIZE, known)
        self.now = 0.0

    @property
    def rollout(self) -> Rollout:
        """The rollout as it is stored."""
        return self.rollouts.get("example")

    def tick(self, seconds: float = 1.0, *, is_same: bool = True) -> Plan:
        """Let both do what the planner says, and compare what they are then."""
        self.now += seconds
        decided = plan(self.rollout, self.rollouts.view(self.rollout), self.now)
        self.follow(decided)
        if is_same:
            self.compare()
        return decided

    def follow(self, decided: Plan) -> None:
        """Store a decision and do what it orders, twice."""
        if decided.next != self.rollout.standing:
            self.rollouts.save(self.rollout, decided, self.now)
        for order in decided.orders * 2:
            told = self.rollouts.carry_out(self.rollout, order, self.now)
            changed = self.reference.carry_out(self.rollout, order, self.now)
            assert sorted(told) == sorted(self.order[each] for each in changed)

    def report(self, positions: list[int], state: str) -> None:
        """Let devices report that they did as they were told."""
        for position in positions:
            self.rows.obey([self.order[position]], state=state)
            self.reference.devices[position].state = state

    def compare(self) -> None:
        """Both count the same."""
        found, wanted = self.rollouts.view(self.rollout), self.reference.view(self.rollout)
        assert found.phases == wanted.phases
        assert dict(found.offsets) == dict(wanted.offsets)
        assert (found.members, found.control_devices) == (wanted.members, wanted.control_devices)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Both fleets, nothing offered."""
    made = Pair(tmp_path)
    yield made
    made.rows.database.close()


def _shadowed(pair: Pair) -> None:
    """Go through the phase in the shadow."""
    pair.tick()
    wants = [pair.rows.wants(each) for each in pair.order[:6]]
    assert all(each["policy"]["shadow"]["is_held"] for each in wants)
    pair.report([0, 1, 2, 3, 4], "shadowing")
    pair.compare()
    pair.report([5], "shadowing")
    assert pair.tick().next.phase_state == "soaking"
    assert pair.tick().next.phase == 1


def test_shadow_rate_window_and_hold_out_are_carried_out_by_the_rules(pair: Pair) -> None:
    """From the shadow to the hold-out, both fleets have the same offers and counts."""
    _shadowed(pair)
    assert len(pair.tick().orders) == 1
    pair.compare()
    assert pair.tick().orders == ()
    pair.report([0, 1], "committed")
    assert len(pair.tick(10.0).orders) == 1
    pair.report([2], "committed")
    assert "is_held" not in pair.rows.wants(pair.order[0])["policy"]["shadow"]
    pair.tick()
    assert pair.tick().next.phase == 2
    pair.tick(-pair.now % (24 * HOUR_S) + 12 * HOUR_S)
    asleep = {each for each in range(3, 10) if pair.reference.devices[each].mode != "serve"}
    assert {pair.reference.devices[each].offset for each in asleep} == {0, 540}
    told = pair.rows.wants(pair.order[3])["policy"]["delivery"]["conditions"]
    assert told["window"] == "22:00-05:00" or 3 in asleep
    pair.tick(HOUR_S)
    pair.tick(9 * HOUR_S)
    pair.report(list(range(3, 10)), "committed")
    pair.tick()
    assert pair.tick().next.phase == 3
    pair.tick(24 * HOUR_S)
    assert {pair.reference.devices[each].offset for each in range(10, 12)} <= set(OFFSETS)


def test_devices_left_in_the_shadow_go_back_with_the_rest(pair: Pair) -> None:
    """A rollback reaches who serves and who is in the shadow, and nobody else."""
    _shadowed(pair)
    pair.tick()
    pair.report([0, 1], "rolled_back")
    pair.tick()
    assert pair.rollout.standing.state == "rolling_back"
    assert [each.state for each in pair.reference.devices[:6]].count("reverting") == 6
    assert all(pair.rows.wants(each)["digest"] == digest("1") for each in pair.order[:6])
    assert not any(pair.rows.wants(each) for each in pair.order[6:])


def test_a_device_that_follows_something_newer_is_not_called_back_to_serve(pair: Pair) -> None:
    """Who left the shadow for another rollout's order is counted as superseded."""
    _shadowed(pair)
    with pair.rows.database.transaction() as connection:
        connection.exec_driver_sql(
            "update desired set generation = generation + 9 where device_id = ? and family = ?",
            (pair.order[0], FAMILY),
        )
    pair.reference.devices[0].state = "superseded"
    pair.tick()
    assert pair.rollouts.view(pair.rollout).phases[1].superseded == 1


def test_bytes_are_summed_over_the_offers_of_the_rollout(pair: Pair) -> None:
    """What devices fetched for it, by their last report of it."""
    pair.tick()
    pair.report([0, 1], "shadowing")
    pair.report([2], "verifying")
    with pair.rows.database.transaction() as connection:
        connection.exec_driver_sql("update reported set chunk_bytes = 300, patch_bytes = 4")
    found = pair.rollouts.view(pair.rollout)
    assert (found.bytes, found.ended_bytes) == (3 * 304, 2 * 304)


def test_a_person_takes_a_shadow_back(pair: Pair) -> None:
    """A rollback in the phase in the shadow is a rollback like any other."""
    pair.tick()
    view = pair.rollouts.view(pair.rollout)
    pair.follow(verbs.rollback(pair.rollout, view, pair.now, by="anna"))
    pair.compare()
    before = msgspec.structs.asdict(pair.rollout.standing)
    assert before["state"] == "rolling_back"
