"""Windows as they come from devices, taken into watches: once each, in order, over restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select, text, update

from control_plane.store import watch_schema
from control_plane.store import watches as stored_watches
from control_plane.store.arrivals import Sent
from control_plane.store.schema import segment
from control_plane.telemetry import watching
from firmware_bundles.errors import NotFound
from firmware_bundles.sketches.codec import encode_baseline
from firmware_bundles.sketches.watch import State
from support import fleet_rows
from support.watch_world import FACTS, HOUR, ROWS, WatchWorld, window


@pytest.fixture
def world(tmp_path: Path) -> Iterator[WatchWorld]:
    """Give a world with three devices."""
    made = WatchWorld(tmp_path)
    for number in range(3):
        fleet_rows.enrol(made.database, f"device-{number}")
    yield made
    made.close()


def test_windows_are_taken_in_order_of_time_whatever_order_they_came_in(world: WatchWorld) -> None:
    """Devices whose windows overtook each other on the way stand as the others."""
    world.send("device-0", *range(12))
    world.send("device-1", 1, 0, 3, 2, 7, 4, 6, 5, 11, 10, 9, 8)
    world.tick()
    assert world.row("device-0").standing == world.row("device-1").standing
    assert world.row().standing.state is State.STABLE
    assert (world.row().standing.taken, world.row().standing.late) == (12, 0)


def test_a_window_waits_until_it_has_settled(world: WatchWorld) -> None:
    """What may still be overtaken is not tested yet; what comes later still is counted as late."""
    world.send("device-0", 0, 1)
    world.watching.tick()
    assert world.watches.rows() == []
    world.tick()
    world.send("device-0", 3)
    world.tick()
    world.send("device-0", 2)
    world.tick()
    assert (world.row().standing.taken, world.row().standing.late) == (3, 1)


def test_a_backlog_is_tested_when_all_of_it_came(world: WatchWorld) -> None:
    """After an outage the newest window comes first: nothing is tested while others still come."""
    for number in (5, 4, 3):
        world.send("device-0", number)
        world.clock.now += 8
        world.watching.tick()
    assert world.watches.rows() == []
    world.tick()
    assert (world.row().standing.taken, world.row().standing.late) == (3, 0)


def test_a_device_that_never_rests_is_tested_all_the_same(world: WatchWorld) -> None:
    """Windows that come more often than they settle wait ten times as long at most."""
    for number in range(14):
        world.send("device-0", number)
        world.clock.now += 9
        world.watching.tick()
    assert world.row().standing.taken >= 1
    assert world.row().standing.late == 0


def test_a_restart_at_any_place_loses_no_window_and_counts_none_twice(world: WatchWorld) -> None:
    """Between any two rounds the process may end: the standing is that of one that did not."""
    world.send("device-0", *range(8))
    world.send("device-0", 8, 9, 10, shift=1.5)
    world.tick()
    for number in range(11):
        world.send("device-1", number, shift=1.5 if number > 7 else 0.0)
        world.restart()
        world.tick()
    assert world.row("device-1").standing == world.row("device-0").standing
    assert world.row().standing.is_changed
    assert world.row().standing.findings[0].column == "x[1]"


def test_a_crash_before_the_end_of_the_transaction_takes_nothing(
    world: WatchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State and marks are stored together, or not at all."""
    world.send("device-0", *range(3))
    world.send("device-1", *range(3))
    stored: list[str] = []

    def dies(device: str, *_: object) -> dict[str, object]:
        stored.append(device)
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(stored_watches, "_named", dies)
        with pytest.raises(InterruptedError):
            world.tick()
    assert stored
    assert world.watches.rows() == []
    world.restart()
    world.tick()
    assert world.row().standing.taken == 3


def test_two_processes_do_not_take_a_window_twice(world: WatchWorld) -> None:
    """What another one stored in between is not overwritten; the loser's windows are looked at."""
    world.send("device-0", 0, 1)
    world.clock.now += 11
    key = world.watches.waiting(world.clock(), 0.0, 9)[0]
    slow = world.watching._take(key, world.clock())
    world.watching.tick()
    assert world.watches.save([slow]) == 0
    assert world.row().standing.taken == 2
    world.send("device-0", 2)
    world.clock.now += 11
    slow = world.watching._take(key, world.clock())
    world.watching.tick()
    assert world.watches.save([slow]) == 0
    assert world.row().standing.taken == 3


def test_what_confidences_promise_is_kept_with_each_window(world: WatchWorld) -> None:
    """Rows, and how many of them are promised to be right; a damaged window promises nothing."""
    world.send("device-0", 0, 1)
    with world.telemetry.storing(world.clock()) as intake:
        intake.add([Sent("device-1", window(0, world.model, body=b"\1damaged"))])
    world.tick()
    told = segment.c.device_id, segment.c.promised_rows, segment.c.promised_right
    with world.database.reading() as connection:
        found = connection.execute(select(*told).order_by(segment.c.device_id)).all()
    assert [row[:2] for row in found] == [
        ("device-0", ROWS),
        ("device-0", ROWS),
        ("device-1", None),
    ]
    assert found[0].promised_right / ROWS == pytest.approx(0.975, abs=0.02)
    assert found[2].promised_right is None


def test_another_model_is_commissioned_by_itself(world: WatchWorld) -> None:
    """After an update a device's normal is learnt anew, and the former model's is kept."""
    world.send("device-0", *range(8))
    data = encode_baseline(FACTS)
    other = fleet_rows.publish(world.database, "2", 2, {"baseline.bin": data})
    with world.telemetry.storing(world.clock()) as intake:
        intake.add([Sent("device-0", window(20, other))])
    world.tick()
    found = {row.version: row.standing.state for row in world.watches.rows("digits")}
    assert found == {"1": State.STABLE, "2": State.COMMISSIONING}


def test_a_device_can_be_commissioned_anew(world: WatchWorld) -> None:
    """After its surroundings changed for good, a device's new normal is learnt."""
    world.send("device-0", *range(8))
    world.tick()
    assert world.watching.commission_anew("device-0", "digits") == 1
    assert world.row().standing.state is State.COMMISSIONING
    world.send("device-0", 8)
    world.tick()
    assert world.row().standing.reference_rows == ROWS
    with pytest.raises(NotFound):
        world.watching.commission_anew("device-0", "faces")


def test_a_window_that_cannot_be_read_is_counted(world: WatchWorld) -> None:
    """Damaged bytes, and windows of a model without a baseline, are marked and shown."""
    with world.telemetry.storing(world.clock()) as intake:
        intake.add([Sent("device-0", window(0, world.model, body=b"\1damaged"))])
        intake.add([Sent("device-1", window(0, "b" * 64))])
    world.send("device-0", 1)
    world.tick()
    assert (world.row().standing.unreadable, world.row().standing.taken) == (1, 1)
    assert world.row("device-1").standing.unreadable == 1
    assert world.watches.waiting(world.clock(), 0.0, 9) == []


def test_a_watch_that_cannot_be_read_begins_anew(world: WatchWorld) -> None:
    """Damage in the store costs the reference, not the service."""
    world.send("device-0", *range(8))
    world.tick()
    with world.database.transaction() as connection:
        connection.execute(update(watch_schema.watch).values(body=b"\1nothing"))
    world.send("device-0", 8)
    world.tick()
    assert world.row().standing.state is State.COMMISSIONING
    assert world.row().standing.reference_rows == ROWS


def test_a_clock_ahead_does_not_stop_a_watch(world: WatchWorld) -> None:
    """A window that claims to end in ten years ended when it came, at the latest."""
    future = window(0, world.model)
    future = msgspec.structs.replace(future, ended=future.ended + 10 * 365 * 24 * HOUR)
    with world.telemetry.storing(fleet_rows.NOW - 80 * HOUR) as intake:
        intake.add([Sent("device-0", future)])
    world.send("device-0", 20)
    world.tick()
    assert (world.row().standing.taken, world.row().standing.late) == (2, 0)


def test_windows_of_one_moment_are_all_taken(world: WatchWorld) -> None:
    """A clock that is ahead makes a backlog end when it came: in the order of its numbers."""
    for number in (95, 96, 97):
        world.store("device-0", window(number, world.model))
    world.tick()
    assert (world.row().standing.taken, world.row().standing.late) == (3, 0)


def test_who_rang_since_a_time_can_be_asked(world: WatchWorld) -> None:
    """For each device with a reference: whether it changed since; others are left out."""
    world.send("device-0", *range(8))
    world.send("device-1", *range(8))
    world.send("device-1", 8, 9, 10, shift=1.5)
    world.send("device-2", 0)
    world.tick()
    begin = fleet_rows.NOW - 90 * HOUR
    rang = world.watches.changed_since("digits", world.model, begin)
    assert rang == {"device-0": False, "device-1": True}
    assert not any(world.watches.changed_since("digits", world.model, begin + 20 * HOUR).values())


def test_many_watches_are_taken_in_rounds(
    world: WatchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tick takes all that waits, also when that is more than one transaction holds."""
    monkeypatch.setattr(watching, "WATCHES_MAX", 2)
    for number in range(3):
        world.send(f"device-{number}", 0, 1)
    world.tick()
    assert [row.standing.taken for row in world.watches.rows()] == [2, 2, 2]


def test_the_list_of_what_waits_is_found_by_its_index(world: WatchWorld) -> None:
    """However many segments are stored, only those that wait are looked at."""
    with world.database.reading() as connection:
        plan = connection.execute(
            text(
                "explain query plan select distinct device_id from segment"
                " where segment.kind = 'window' and segment.watched = 0"
            )
        ).all()
    assert any("ix_segment_unwatched" in str(row) for row in plan)
