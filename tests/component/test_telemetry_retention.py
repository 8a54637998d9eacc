"""What becomes of telemetry with time: nothing is lost from the sums, nothing counts twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import Column, func, insert, select, update

from control_plane.fleet.selectors import Selector
from control_plane.store import schema, tally_schema
from control_plane.store.database import Database
from control_plane.store.pruning import deleted_until
from control_plane.store.rollouts import Rollouts
from control_plane.store.stores import Stores
from control_plane.telemetry.ingest import Ingest
from control_plane.telemetry.merge import merge
from control_plane.telemetry.retention import Periods, Retention
from firmware_bundles.sketches import baseline as baselines
from firmware_bundles.sketches.codec import encode_sketch
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.wire.messages import Segment, SegmentKind
from support import fleet_rows, segments
from support.rollout_fleet import rollout

DAY_S = 86_400.0
ROLLOUT = """
family: digits
release: "2"
cohort: all
phases: [{share: 1.0}]
"""
START = 1_800_000_000.0
KEYS = {"ant": b"k" * 32, "bee": b"l" * 32}


class World:
    """An intake and a retention over one database and one clock."""

    def __init__(self, path: Path) -> None:
        self.now = START
        self.acknowledged = 0
        self.database = Database.open(f"sqlite:///{path}")
        for device_id, secret in KEYS.items():
            fleet_rows.enrol(self.database, device_id, secret=secret)
        self.stores = Stores.over(self.database)
        self.ingest = Ingest(
            self.stores.telemetry, KEYS.get, lambda *_: self._acknowledge(), self._time
        )
        random = np.random.default_rng(3)
        rows = random.normal(size=(500, 3)).astype(np.float32)
        scores = random.dirichlet(np.ones(2), 500).astype(np.float32)
        self.baseline = baselines.make({"x": rows}, scores, ["a", "b"])
        self.retention = Retention(
            self.stores.pruning, Periods(), {segments.MODEL: self.baseline}.get, self._time
        )

    def send(self, *sent: Segment, device_id: str = "ant") -> None:
        """One batch from a device."""
        key = KEYS[device_id]
        self.ingest.ingest([(device_id, segments.seal(device_id, key, each)) for each in sent])

    def pass_days(self, days: float) -> None:
        """Let time go by, and retention do all that it has to."""
        self.now += days * DAY_S
        while self.retention.delete(self.now):
            pass

    def received(self) -> int:
        """All predictions counted."""
        return sum(row.received for row in self.stores.telemetry.predictions())

    def tallied(self) -> dict[str, tuple[int, int]]:
        """Segments and answered predictions in the sums, by kind."""
        columns = tally_schema.tally.c
        sums = select(columns.kind, func.sum(columns.segments), func.sum(columns.answered))
        with self.database.reading() as connection:
            rows = connection.execute(sums.group_by(columns.kind)).all()
        return {row[0]: (int(row[1]), int(row[2])) for row in rows}

    def count(self, table: str) -> int:
        """Rows of a table."""
        own = schema.metadata.tables[table]
        with self.database.reading() as connection:
            return connection.execute(select(func.count()).select_from(own)).scalar_one()

    def window(self, number: int) -> tuple[Segment, Sketch]:
        """A window of some rows, and its sketch."""
        random = np.random.default_rng(number)
        sketch = Sketch(self.baseline)
        watched = random.normal(size=(40, 3)).astype(np.float32)
        sketch.update_watched(watched, random.dirichlet(np.ones(2), 40).astype(np.float32))
        return segments.window(number, encode_sketch(sketch), 40), sketch

    def _acknowledge(self) -> None:
        self.acknowledged += 1

    def _time(self) -> float:
        return self.now


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh world."""
    made = World(tmp_path / "shoal.db")
    yield made
    made.database.close()


def test_predictions_count_the_same_after_they_are_deleted(world: World) -> None:
    """Segments go, the counts and the latency stay; what went is told."""
    for number in range(20):
        first = number * 10 + 1
        world.send(segments.predictions(list(range(first, first + 10)), [0] * 10))
        world.now += 3_600.0
    before = world.stores.tallies.latency(None, None, START)
    assert (world.received(), world.tallied()) == (200, {"predictions": (20, 200)})
    world.pass_days(15)
    assert (world.count("segment"), world.count("segment_past")) == (0, 1)
    assert (world.received(), world.tallied()) == (200, {"predictions": (20, 200)})
    assert world.stores.tallies.latency(None, None, START) == before
    (gone,) = [each for each in world.stores.pruning.deletions() if "predictions" in each.what]
    assert (gone.what, gone.rows) == ("segments of predictions", 20)


def test_a_deleted_segment_that_comes_again_counts_no_more(world: World) -> None:
    """It is acknowledged, so that its device deletes it, too; one that overlaps it is refused."""
    first, second = segments.predictions([1, 2], [0, 0]), segments.predictions([3, 4], [0, 0])
    world.send(first, second)
    world.pass_days(15)
    world.send(first, second, segments.predictions([5, 6], [0, 0]))
    assert (world.received(), world.ingest.tally.duplicates) == (6, 2)
    world.send(segments.predictions([6, 7], [0, 0]), segments.predictions([4, 9], [0, 0]))
    assert (world.received(), world.ingest.refused) == (6, {"wire.segment_overlapping": 2})
    assert world.acknowledged == 7


def test_a_segment_is_known_for_its_time_after_it_was_deleted(world: World) -> None:
    """Though that time be shorter than the time that it was kept."""
    periods = Periods(segment_keys_days=7.0)
    world.retention = Retention(world.stores.pruning, periods, lambda _: None, world._time)
    sent = segments.predictions([1, 2], [0, 0])
    world.send(sent)
    world.pass_days(15)
    world.send(sent)
    assert (world.received(), world.ingest.tally.duplicates) == (2, 1)
    world.pass_days(90)
    assert world.count("segment_past") == 0


def test_a_segment_that_comes_late_joins_the_ranges_beside_it(world: World) -> None:
    """A gap stays open for the segment that belongs there."""
    parts = [segments.predictions([at, at + 1], [0, 0]) for at in (1, 3, 5)]
    world.send(parts[0], parts[2])
    world.pass_days(15)
    assert world.count("segment_past") == 2
    world.send(parts[1])
    world.pass_days(15)
    assert (world.count("segment_past"), world.received()) == (1, 6)


def test_windows_are_merged_exactly_before_they_go(world: World) -> None:
    """The day's sketch equals that of all windows, over several rounds; others are counted."""
    made = [world.window(number) for number in range(1, 6)]
    world.send(*(each for each, _ in made[:3]), segments.window(9, b"\x01rubbish", 5))
    world.pass_days(36)
    world.now -= 36 * DAY_S
    world.send(*(each for each, _ in made[3:]), segments.window(7, b"x", 5, model="c" * 64))
    world.pass_days(36)
    with world.database.reading() as connection:
        rows = connection.execute(select(tally_schema.window_day)).all()
    by_model = {row.model: row for row in rows}
    day = by_model[segments.MODEL]
    assert (day.windows, day.unreadable, day.rows) == (5, 1, 200)
    assert (by_model["c" * 64].windows, by_model["c" * 64].unreadable) == (0, 1)
    pooled = Sketch(world.baseline)
    for _, sketch in made:
        pooled.merge(sketch)
    assert day.body == encode_sketch(pooled)
    assert merge(world.baseline, [day.body]).unreadable == 0
    (drifted,) = world.stores.telemetry.windows("digits", ["ant"], START, 10)
    assert (drifted.model, drifted.bodies) == (segments.MODEL, [day.body])
    assert world.stores.telemetry.windows(None, ["bee"], START, 10) == []
    assert world.stores.telemetry.windows(None, None, world.now, 10) == []
    assert world.count("segment") == 0


def test_hours_become_days_and_days_end(world: World) -> None:
    """The sum stays the same until the day itself is deleted, which is told."""
    for number in range(30):
        world.send(segments.predictions([number + 1], [0]))
        world.now += 3_600.0
    world.pass_days(15)
    with world.database.reading() as connection:
        spans = connection.execute(select(tally_schema.tally.c.span)).scalars().all()
    assert set(spans) == {"day"}
    assert len(spans) in {2, 3}
    assert world.tallied() == {"predictions": (30, 30)}
    world.pass_days(801)
    assert world.tallied() == {}
    told = {each.what: each.rows for each in world.stores.pruning.deletions()}
    assert told["rows of tally"] == len(spans)
    assert world.received() == 30


def test_what_came_before_there_was_a_tally_is_counted_at_its_end(world: World) -> None:
    """A segment that an older release stored is added as it goes, once."""
    world.send(segments.predictions([1, 2, 3], [0, 0, 0]))
    with world.database.transaction() as connection:
        connection.execute(tally_schema.tally.delete())
        connection.execute(update(schema.segment).values(is_tallied=False))
    world.pass_days(15)
    assert world.tallied() == {"predictions": (1, 3)}
    (row,) = world.stores.tallies.latency(None, None, START - DAY_S)
    assert (row.answered, sum(row.counts), row.latency_us) == (3, 3, 450)


def test_labels_that_wait_too_long_are_given_up(world: World) -> None:
    """They are deleted, counted, and told."""
    world.send(segments.labels([1], [99], [1]))
    assert world.stores.telemetry.pending_labels() == 1
    world.pass_days(31)
    assert world.stores.telemetry.pending_labels() == 0
    assert world.count("segment") == 1
    world.pass_days(60)
    told = {each.what: each.rows for each in world.stores.pruning.deletions()}
    assert (told["rows of label_pending"], told["segments of labels"]) == (1, 1)


def test_only_the_oldest_incarnations_are_forgotten(world: World) -> None:
    """Of each device the newest so many stay, in their order."""
    rows = [
        {"device_id": device, "incarnation": f"{turn:016x}", "counter": 1, "turn": turn}
        for device, count in (("ant", 1_010), ("bee", 5))
        for turn in range(1, count + 1)
    ]
    with world.database.transaction() as connection:
        connection.execute(insert(schema.report_counter), rows)
    world.pass_days(1)
    turns = select(func.min(schema.report_counter.c.turn), func.count()).where(
        schema.report_counter.c.device_id == "ant"
    )
    with world.database.reading() as connection:
        assert tuple(connection.execute(turns).one()) == (11, 1_000)
    assert world.count("report_counter") == 1_005


def test_what_is_young_stays(world: World) -> None:
    """Nothing is deleted before its time, and a tick with nothing to do rests for a while."""
    shadow = segments.predictions([1], [0], model="c" * 64, kind=SegmentKind.SHADOW)
    world.send(segments.predictions([1], [0]), shadow, segments.labels([1], [1], [0]))
    world.pass_days(13)
    assert world.count("segment") == 3
    assert world.stores.pruning.deletions() == []
    world.retention.tick()
    world.now += 2 * DAY_S
    world.retention.tick()
    assert world.count("segment") == 1


@pytest.mark.parametrize("table", ["label_count", "outcome_count", "value_sum", "pair_count"])
def test_counts_end_but_not_under_an_open_rollout(world: World, table: str) -> None:
    """Counts go at their age, except those that a rollout that is still open may read."""
    own = schema.metadata.tables[table]
    values = {column.name: _anything(column) for column in own.columns} | {"device_id": "ant"}
    with world.database.transaction() as connection:
        connection.execute(insert(own).values(values | {"received": START}))
    wanted = msgspec.structs.replace(rollout(ROLLOUT), created=START + 1.0)
    Rollouts(world.database).create(wanted, Selector())
    every = select(func.count()).select_from(own)
    world.pass_days(Periods().counts_days + 1)
    with world.database.reading() as connection:
        assert connection.execute(every).scalar_one() == 1
    with world.database.transaction() as connection:
        connection.execute(update(schema.rollout).values(state="completed"))
    world.pass_days(0.0)
    with world.database.reading() as connection:
        assert connection.execute(every).scalar_one() == 0
    deletions = {each.what: each.rows for each in world.stores.pruning.deletions()}
    assert deletions[f"rows of {table}"] == 1


def test_it_is_known_until_when_segments_are_deleted(world: World) -> None:
    """Who reads segments can tell whether all are there that came since a time."""
    world.send(segments.predictions([1, 2], [0, 0]))
    world.now += DAY_S
    world.send(segments.predictions([3, 4], [0, 0]))
    world.pass_days(Periods().predictions_days - 0.5)
    with world.database.reading() as connection:
        assert deleted_until(connection, SegmentKind.PREDICTIONS.value) == START
        assert deleted_until(connection, SegmentKind.WINDOW.value) is None
    world.pass_days(1.0)
    with world.database.reading() as connection:
        assert deleted_until(connection, SegmentKind.PREDICTIONS.value) == START + DAY_S


def _anything(column: Column[Any]) -> object:
    return "x" if column.type.python_type is str else 1
