"""Devices that come while a rollout runs: they join it, displace nobody, and no phase grows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from control_plane.rollouts import verbs
from control_plane.rollouts.model import RolloutState, phase_ends
from control_plane.rollouts.selection import choose
from control_plane.store.schema import device, release
from firmware_bundles.errors import ConflictError
from firmware_bundles.manifest import Needs
from support.cohort_world import World
from support.rollout_fleet import rollout


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fleet of twelve."""
    made = World(tmp_path)
    yield made
    made.fleet.database.close()


def test_who_enrols_joins_the_later_phases(world: World) -> None:
    """The phase that has begun keeps its devices; the rollout ends with all on the release."""
    world.start()
    world.run()
    before, reached = world.positions(), world.offered()
    world.enrol(*range(20, 28))
    world.look()
    after = world.positions()
    assert len(after) == 20
    assert {each: after[each] for each in reached} == {each: before[each] for each in reached}
    assert world.offered() == reached
    joined = world.rollouts.decisions("example")[-1]
    assert joined.why == ["joined: 8 devices of all (d20, d21, d22, ...)"]
    for _ in range(6):
        world.run()
    assert world.rollouts.get("example").standing.state is RolloutState.COMPLETED
    assert world.fleet.offered("2") == set(world.fleet.devices)


def test_looking_again_changes_nothing(world: World) -> None:
    """Who is in a rollout joins it once; nothing is decided where nobody came."""
    world.start()
    world.run()
    world.enrol(30)
    world.look()
    decided = len(world.rollouts.decisions("example"))
    for _ in range(3):
        world.look()
    assert len(world.rollouts.decisions("example")) == decided
    assert len(world.positions()) == 13


def test_who_matches_later_joins(world: World) -> None:
    """A label set while a rollout runs brings a device in, a capability that it lacks does not."""
    world.cohorts.create("berlin", "site=berlin")
    for name in ("d00", "d01"):
        world.devices.set_labels(name, {"site": "berlin"}, 0.0)
    wanted = rollout(
        "{family: digits, release: '2', cohort: berlin, "
        "phases: [{share: 0.5, soak_s: 0}, {share: 1.0, soak_s: 0}]}",
        "example",
    )
    world.rollouts.create(wanted, choose(wanted.spec, Needs(), world.cohorts).members)
    world.run()
    world.devices.set_labels("d05", {"site": "berlin"}, 0.0)
    world.look()
    assert set(world.positions()) == {"d00", "d01", "d05"}


def test_a_revoked_device_does_not_join(world: World) -> None:
    """It belongs to no cohort."""
    world.start()
    world.run()
    world.enrol(40, 41)
    with world.fleet.database.transaction() as connection:
        connection.execute(update(device).where(device.c.id == "d40").values(revoked=1.0))
    world.look()
    assert {"d40", "d41"} & world.positions().keys() == {"d41"}


def test_the_last_phase_takes_devices_in_while_it_offers(world: World) -> None:
    """At once, as the phase is for all; once it soaks, it is too late for a phase."""
    world.start()
    for _ in range(20):
        world.now += 10.0
        world.executor.tick()
        standing = world.rollouts.get("example").standing
        if standing.phase == 1:
            break
        world.fleet.obey()
    world.enrol(50)
    world.look()
    assert "d50" in world.positions()
    world.run()
    assert "d50" in world.offered()
    for _ in range(4):
        world.run()
    assert world.rollouts.get("example").standing.state is RolloutState.COMPLETED
    world.enrol(51)
    world.enlisting.tick()
    assert "d51" not in world.positions()


def test_the_hold_out_stays_the_hold_out(world: World) -> None:
    """Devices that were held out stay so while others come, and grow by their share."""
    world.start("hold_out: {share: 0.25}")
    world.run()
    held = [each for each, at in world.positions().items() if at >= 9]
    world.enrol(*range(60, 72))
    world.look()
    after = world.positions()
    assert len(after) == 24
    assert all(after[each] >= 18 for each in held)


def test_who_joins_stands_anywhere_among_who_is_to_come(tmp_path: Path) -> None:
    """No place in the later phases is out of reach of a device that comes later."""
    world = World(tmp_path, size=8)
    places = set()
    for number in range(12):
        name = f"r{number}"
        world.start(rollout_id=name)
        world.enrol(100 + number)
        world.look()
        places.add(world.positions(name)[f"d{100 + number}"] / len(world.positions(name)))
        found = world.rollouts.get(name)
        done = verbs.abort(found, world.rollouts.view(found), world.now, "test")
        world.rollouts.save(found, done, world.now)
    assert len(places) >= 5
    world.fleet.database.close()


def test_many_joins_at_random_times_never_break_the_order(tmp_path: Path) -> None:
    """However devices come, every position has one device and no begun phase has too many."""
    chance = random.Random(7)
    world = World(tmp_path, size=10)
    world.start("hold_out: {count: 2}")
    number = 10
    for _ in range(25):
        if chance.random() < 0.5:
            count = chance.randint(1, 4)
            world.enrol(*range(number, number + count))
            number += count
            world.look()
        else:
            world.run(chance.choice([1.0, 20.0]))
        found = world.rollouts.get("example")
        places = world.positions()
        ends = phase_ends(found.spec, len(places), found.joined)
        if found.is_open:
            allowed = ends[found.standing.phase]
            assert all(places[each] < allowed for each in world.offered())
    world.fleet.database.close()


def test_a_join_that_was_outrun_changes_nothing(world: World) -> None:
    """Who decided meanwhile comes first; the next look sees the devices again."""
    world.start()
    stale = world.rollouts.get("example")
    world.run()
    world.enrol(80)
    members = choose(stale.spec, Needs(), world.cohorts).members
    with pytest.raises(ConflictError):
        world.rollouts.join(stale, members, world.now)
    assert "d80" not in world.positions()
    world.look()
    assert "d80" in world.positions()


def test_who_lost_its_access_is_given_up(world: World) -> None:
    """No rollout waits for a revoked device, offered to or not; the others go on to the end."""
    world.start()
    world.now += 10.0
    world.executor.tick()
    order = sorted(world.positions().items(), key=lambda each: each[1])
    (silent, _), (planned, _) = order[0], order[-1]
    with world.fleet.database.transaction() as connection:
        gone = update(device).where(device.c.id.in_([silent, planned]))
        connection.execute(gone.values(revoked=1.0))
    world.look()
    assert world.rollouts.decisions("example")[-1].why == [
        "given up, for they lost their access: 2 devices"
    ]
    others = [each for each in world.fleet.devices if each not in (silent, planned)]
    for _ in range(8):
        world.now += 10.0
        world.executor.tick()
        world.fleet.obey(others)
    assert world.rollouts.get("example").standing.state is RolloutState.COMPLETED
    rows = world.rollouts.deployments(world.rollouts.get("example"))
    assert {row.device_id for row in rows if row.status == "superseded"} == {silent, planned}


def test_nobody_goes_back_to_a_model_that_its_owners_withdrew(world: World) -> None:
    """Such devices stay as they are, are counted, and the rollback ends all the same."""
    world.start()
    for _ in range(6):
        world.run()
    with world.fleet.database.transaction() as connection:
        connection.execute(
            update(release).where(release.c.version == "1").values(is_withdrawn=True)
        )
    done = world.rollouts.get("example")
    back = verbs.rollback(done, world.rollouts.view(done), world.now, "anna")
    world.rollouts.save(done, back, world.now)
    for _ in range(3):
        world.run()
    assert world.rollouts.get("example").standing.state is RolloutState.ROLLED_BACK
    told = world.rollouts.decisions("example")[-1].why
    assert "left as they are, for want of a previous model: 12 devices" in told
    assert world.fleet.offered("2") == set(world.fleet.devices)
