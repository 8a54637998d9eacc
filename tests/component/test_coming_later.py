"""Devices that come after a rollout's end: they get what their cohort runs, and are counted apart.

The cohort is `all`; the rollout `example` brings version 2 to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from control_plane.rollouts import verbs
from control_plane.rollouts.model import Counts, Plan, RolloutState, total
from control_plane.rollouts.planner import plan
from control_plane.rollouts.selection import choose
from control_plane.store.schema import device, release
from firmware_bundles.manifest import Needs
from support.cohort_world import World
from support.rollout_fleet import rollout


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fleet of twelve that serves version 1."""
    made = World(tmp_path)
    yield made
    made.fleet.database.close()


def complete(world: World, more: str = "", rollout_id: str = "example") -> None:
    """Let a rollout to all go to its end."""
    world.start(more, rollout_id)
    for _ in range(10):
        world.run()
    assert world.rollouts.get(rollout_id).standing.state is RolloutState.COMPLETED


def start(world: World, version: str, cohort: str, rollout_id: str) -> None:
    """Start another rollout, of all devices at once."""
    text = f"{{family: digits, release: '{version}', cohort: {cohort}, "
    wanted = rollout(text + "phases: [{share: 1.0, soak_s: 0}]}", rollout_id)
    world.rollouts.create(wanted, choose(wanted.spec, Needs(), world.cohorts).members)


def later(world: World, rollout_id: str = "example") -> Counts:
    """Return the counts of who came after the end."""
    return world.rollouts.view(world.rollouts.get(rollout_id)).later


def told(world: World, rollout_id: str = "example") -> Plan:
    """Return what the planner says of a rollout now."""
    found = world.rollouts.get(rollout_id)
    return plan(found, world.rollouts.view(found), world.now)


def decide(world: World, verb: verbs.Verb, rollout_id: str = "example") -> None:
    """Decide as a person."""
    found = world.rollouts.get(rollout_id)
    decided = verb(found, world.rollouts.view(found), world.now, by="anna")
    world.rollouts.save(found, decided, world.now)


def test_who_enrols_after_the_end_gets_the_release(world: World) -> None:
    """It is joined with a reason, offered to, counted apart; the phases stay as they ended."""
    complete(world)
    before = world.rollouts.view(world.rollouts.get("example")).phases
    world.enrol(20, 21)
    world.look()
    decided = world.rollouts.decisions("example")[-1]
    assert decided.why == ["after the end joined: 2 devices of all (d20, d21)"]
    assert decided.state == "completed"
    assert {"d20", "d21"} <= world.fleet.offered("2")
    world.fleet.obey()
    assert later(world).committed == 2
    assert world.rollouts.view(world.rollouts.get("example")).phases == before
    assert total(before, "committed") == 12
    assert told(world).why[1] == (
        "after the end came 2 devices: by signed report, 2 on digits/2/manifest.json, "
        "0 failed or rolled back"
    )


def test_who_came_once_is_not_decided_on_again(world: World) -> None:
    """Looking again changes nothing."""
    complete(world)
    world.enrol(20)
    world.look()
    world.fleet.obey()
    decided = len(world.rollouts.decisions("example"))
    for _ in range(3):
        world.look()
    assert len(world.rollouts.decisions("example")) == decided


def test_a_file_may_close_a_rollout_at_its_end(world: World) -> None:
    """With `is_closed_after` nobody gets its release later."""
    complete(world, "is_closed_after: true")
    world.enrol(20)
    world.look()
    assert "d20" not in world.positions()


def test_a_rollout_to_a_part_of_its_cohort_is_no_standard(world: World) -> None:
    """A trial on half of the devices leaves those that come later to the one before it."""
    complete(world)
    half = "{family: digits, release: '3', cohort: all, phases: [{share: 0.5, soak_s: 0}]}"
    wanted = rollout(half, "trial")
    world.rollouts.create(wanted, choose(wanted.spec, Needs(), world.cohorts).members)
    for _ in range(4):
        world.run()
    assert world.rollouts.get("trial").standing.state is RolloutState.COMPLETED
    world.enrol(20)
    world.look()
    assert "d20" in world.fleet.offered("2")
    assert "d20" not in world.positions("trial")


def test_a_withdrawn_release_is_given_to_nobody(world: World) -> None:
    """Its owners took it back: the last completed rollout with an allowed release stands."""
    complete(world)
    start(world, "3", "all", "newer")
    for _ in range(4):
        world.run()
    with world.fleet.database.transaction() as connection:
        gone = update(release).where(release.c.version == "3")
        connection.execute(gone.values(is_withdrawn=True))
    world.enrol(20)
    world.look()
    assert "d20" not in world.positions("newer")
    assert "d20" in world.fleet.offered("2")


def test_of_two_cohorts_the_later_rollout_has_a_device(world: World) -> None:
    """A device that belongs to both gets one offer, and no look changes that."""
    complete(world)
    world.cohorts.create("beta", "track=beta")
    world.devices.set_labels("d00", {"track": "beta"}, 0.0)
    start(world, "3", "beta", "beta")
    for _ in range(4):
        world.run()
    world.enrol(20, 21)
    world.devices.set_labels("d20", {"track": "beta"}, 0.0)
    for _ in range(3):
        world.look()
        world.fleet.obey()
    assert "d20" in world.fleet.offered("3")
    assert "d21" in world.fleet.offered("2")
    assert "d20" not in world.positions()


def test_a_label_set_later_brings_the_cohorts_release(world: World) -> None:
    """Who moves into a cohort whose rollout was completed later than its own gets that release."""
    complete(world)
    world.cohorts.create("beta", "track=beta")
    world.devices.set_labels("d00", {"track": "beta"}, 0.0)
    start(world, "3", "beta", "beta")
    for _ in range(4):
        world.run()
    world.devices.set_labels("d05", {"track": "beta"}, 0.0)
    world.look()
    assert world.fleet.offered("3") == {"d00", "d05"}


def test_a_running_rollout_keeps_its_offers(world: World) -> None:
    """Who waits in a running rollout serves the standing release meanwhile; the others stay."""
    complete(world)
    text = (
        "{family: digits, release: '3', cohort: all, "
        "phases: [{share: 0.5, soak_s: 900}, {share: 1.0, soak_s: 0}]}"
    )
    wanted = rollout(text, "newer")
    world.rollouts.create(wanted, choose(wanted.spec, Needs(), world.cohorts).members)
    world.run()
    offered = world.fleet.offered("3")
    world.enrol(20)
    world.look()
    assert "d20" in world.fleet.offered("2")
    assert "d20" in world.positions("newer")
    assert world.fleet.offered("3") == offered


def test_failures_hold_further_offers_until_a_person_retries(world: World) -> None:
    """The gate on installs counts the later devices alone; a retry offers to them again."""
    complete(world, "gates: {installs: {failed_share_max: 0.2}}")
    world.enrol(20)
    world.look()
    world.fleet.obey(["d20"], state="failed")
    world.enrol(21)
    world.look()
    assert later(world).failed == 1
    assert "d21" not in world.fleet.offered("2")
    assert told(world).why[-1] == (
        "1 device to offer to; held: 1 of 1 failed or rolled back, above 20.0%; "
        "a person retries them, or rolls back"
    )
    decide(world, verbs.retry)
    world.look()
    assert {"d20", "d21"} <= world.fleet.offered("2")
    world.fleet.obey()
    assert later(world).committed == 2


def test_later_devices_keep_the_pace_of_the_last_phase(tmp_path: Path) -> None:
    """Its waves, counted from the first device that came later."""
    world = World(tmp_path)
    text = (
        "{family: digits, release: '2', cohort: all, "
        "phases: [{share: 1.0, soak_s: 0, rate: {devices: 12, per_s: 600}}]}"
    )
    wanted = rollout(text, "example")
    world.rollouts.create(wanted, choose(wanted.spec, Needs(), world.cohorts).members)
    for _ in range(5):
        world.run()
    world.enrol(*range(30, 50))
    world.look()
    assert later(world).waiting == 12
    world.look()
    assert later(world).waiting == 12
    world.now += 600
    world.look()
    assert later(world).waiting == 20
    world.fleet.database.close()


def test_a_rollback_after_the_end_reaches_who_came_later(world: World) -> None:
    """All devices of the rollout go back, those that came later, too."""
    complete(world)
    world.enrol(20)
    world.look()
    world.fleet.obey()
    decide(world, verbs.rollback)
    for _ in range(3):
        world.run()
    assert world.rollouts.get("example").standing.state is RolloutState.ROLLED_BACK
    assert world.fleet.offered("1") == set(world.fleet.devices)


def test_a_device_without_access_gets_nothing(world: World) -> None:
    """It belongs to no cohort."""
    complete(world)
    world.enrol(20)
    with world.fleet.database.transaction() as connection:
        connection.execute(update(device).where(device.c.id == "d20").values(revoked=1.0))
    world.look()
    assert "d20" not in world.positions()


def test_who_was_left_by_a_rollout_that_went_back_gets_the_release_before(world: World) -> None:
    """A device that came with a bad release, and has nothing to go back to, is not left with it."""
    complete(world)
    start(world, "3", "all", "bad")
    world.enrol(20)
    world.enlisting.tick()
    world.fleet.report("d20", generation=0, state=None, serving=None)
    for _ in range(2):
        world.executor.tick()
        world.fleet.obey()
    assert "d20" in world.fleet.offered("3")
    decide(world, verbs.rollback, "bad")
    for _ in range(3):
        world.run()
    assert "d20" in world.fleet.offered("3")
    world.look()
    assert "d20" in world.fleet.offered("2")
