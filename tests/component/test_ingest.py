"""Telemetry from devices into a real database: each row counted exactly once."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from control_plane.store.database import Database
from control_plane.store.intake import Intake, Unstorable
from control_plane.store.schema import outcome_count, pair_count, segment, value_sum
from control_plane.store.telemetry import Telemetry
from control_plane.telemetry.ingest import Ingest
from control_plane.telemetry.pairing import Paired
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Acknowledgement, Segment, SegmentKind, Totals
from support import fleet_rows, segments

DEVICES = {"ant": b"k" * 32, "bee": b"l" * 32}
OTHER = "00000000000000bb"
MODEL_2 = "b" * 64


@dataclass
class World:
    """An ingest over a database, and what it acknowledged."""

    database: Database
    acknowledged: list[tuple[str, Acknowledgement]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Wire the parts."""
        self.telemetry = Telemetry(self.database)
        self.ingest = Ingest(self.telemetry, DEVICES.get, self._publish, lambda: 100.0)

    def send(self, *sent: Segment, device_id: str = "ant") -> None:
        """One batch of segments from one device."""
        key = DEVICES[device_id]
        self.ingest.ingest([(device_id, segments.seal(device_id, key, each)) for each in sent])

    def received(self, device_id: str = "ant") -> int:
        """The predictions counted for a device."""
        rows = self.telemetry.predictions()
        return sum(row.received for row in rows if row.device_id == device_id)

    def scores(self) -> dict[str, tuple[int, int]]:
        """Labels and wrong answers by model."""
        return {row.model: (row.labelled, row.wrong) for row in self.telemetry.accuracy()}

    def faults(self) -> list[str | None]:
        """The fault of each acknowledgement, in order."""
        return [each.fault.code if each.fault else None for _, each in self.acknowledged]

    def _publish(self, topic: str, payload: bytes) -> None:
        device_id = topic.split("/")[3]
        assert topic == topics.down(device_id, topics.Down.ACKNOWLEDGEMENT)
        message = codec.unseal(Acknowledgement, DEVICES[device_id], topic, payload)
        self.acknowledged.append((device_id, message))


def open_world(path: Path) -> World:
    """A database with the two devices."""
    database = Database.open(f"sqlite:///{path}")
    for device_id, secret in DEVICES.items():
        fleet_rows.enrol(database, device_id, secret=secret)
    return World(database)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh world."""
    made = open_world(tmp_path / "shoal.db")
    yield made
    made.database.close()


def test_a_segment_is_counted_and_acknowledged(world: World) -> None:
    """Rows are counted for their device and model, and the key comes back without a fault."""
    sent = segments.predictions([1, 2, 3], [0, 1, 1])
    world.send(sent)
    (row,) = world.telemetry.predictions()
    assert (row.device_id, row.model, row.received, row.answered) == ("ant", sent.model, 3, None)
    assert world.acknowledged == [("ant", Acknowledgement(key=sent.key))]


def test_duplicates_are_acknowledged_and_not_counted(world: World) -> None:
    """The same segment twice in one batch, and again later, counts once; each is acknowledged."""
    sent = segments.predictions([1, 2], [0, 1])
    world.send(sent, sent)
    world.send(sent)
    assert world.received() == 2
    assert world.faults() == [None, None, None]
    assert world.ingest.tally.duplicates == 2


def test_order_does_not_matter(world: World) -> None:
    """A later segment may arrive first."""
    world.send(segments.predictions([3, 4], [0, 0]))
    world.send(segments.predictions([1, 2], [0, 0]))
    assert world.received() == 4
    assert world.faults() == [None, None]


def test_devices_do_not_share_keys(world: World) -> None:
    """Two devices may use the same incarnation and numbers: both count."""
    sent = segments.predictions([1, 2], [0, 1])
    world.send(sent)
    world.send(sent, device_id="bee")
    assert (world.received("ant"), world.received("bee")) == (2, 2)


def test_models_may_interleave_their_numbers(world: World) -> None:
    """Two models of one worker share one run of numbers; their segments are no overlap."""
    world.send(segments.predictions([1, 3, 5], [0, 0, 0]))
    world.send(segments.predictions([2, 4], [0, 0], model=MODEL_2))
    assert world.received() == 5
    assert world.faults() == [None, None]


@pytest.mark.parametrize("sequence", [[1, 2], [2, 3], [3, 4], [2, 3, 4, 5]])
def test_an_overlapping_range_is_refused(world: World, sequence: list[int]) -> None:
    """Another range over stored numbers is acknowledged with a fault and not counted."""
    world.send(segments.predictions([2, 4], [0, 0]))
    world.send(segments.predictions(sequence, [0] * len(sequence)))
    assert world.received() == 2
    assert world.faults() == [None, "wire.segment_overlapping"]


def test_a_segment_that_cannot_be_stored_holds_up_no_other(world: World) -> None:
    """It is refused with a fault, so that its device parks it; the rest of the batch is stored."""
    bad = msgspec.structs.replace(segments.predictions([1], [0]), started=float("nan"))
    world.send(segments.predictions([2, 3], [0, 0]), bad, segments.predictions([4], [0]))
    assert world.received() == 3
    assert world.faults() == [None, "wire.malformed", None]


def test_a_bad_segment_in_a_large_batch_costs_few_transactions(world: World) -> None:
    """It is found by halves: others share their commits, and keep their order."""
    sent = [segments.predictions([number], [0]) for number in range(1, 201)]
    sent[70] = msgspec.structs.replace(sent[70], started=float("nan"))
    commits: list[float] = []

    class Counting:
        @contextmanager
        def storing(self, received: float) -> Iterator[Intake]:
            commits.append(received)
            with world.telemetry.storing(received) as intake:
                yield intake

    ingest = Ingest(Counting(), DEVICES.get, world._publish, lambda: 100.0)
    ingest.ingest([("ant", segments.seal("ant", DEVICES["ant"], each)) for each in sent])
    assert world.received() == 199
    assert [each.key.first for _, each in world.acknowledged] == list(range(1, 201))
    assert [at for at, fault in enumerate(world.faults()) if fault] == [70]
    assert len(commits) <= 20


def test_segments_of_one_batch_that_exclude_each_other_count_once(world: World) -> None:
    """The earlier one is stored; its copies are duplicates, others over its numbers are refused."""
    first, over = segments.predictions([1, 2], [0, 0]), segments.predictions([2, 3], [0, 0])
    same_number = segments.predictions([1], [0], model=MODEL_2)
    world.send(first, over, first, same_number, segments.predictions([3], [0]))
    refused = "wire.segment_overlapping"
    assert world.faults() == [None, refused, None, refused, None]
    assert world.received() == 3


def test_a_segment_that_another_process_stores_at_the_same_time_is_a_duplicate(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second finds it there: the device is not told to park what is stored."""
    sent = segments.predictions([1, 2], [0, 1])
    other = World(world.database)
    storing, is_first = world.telemetry.storing, iter([True])

    @contextmanager
    def racing(received: float) -> Iterator[Intake]:
        if next(is_first, False):
            other.send(sent)
            raise Unstorable("duplicate key value violates unique constraint")
        with storing(received) as intake:
            yield intake

    monkeypatch.setattr(world.telemetry, "storing", racing)
    world.send(sent)
    assert (world.faults(), world.received()) == ([None], 2)


def test_nothing_is_acknowledged_while_the_database_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that fails is not the segment's fault: it comes again, and then counts."""
    monkeypatch.setattr("control_plane.store.database._BUSY_TIMEOUT_MS", 10)
    world = open_world(tmp_path / "shoal.db")
    other = sqlite3.connect(tmp_path / "shoal.db", isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(OperationalError):
        world.send(segments.predictions([1], [0]))
    assert (world.acknowledged, world.received()) == ([], 0)
    other.execute("rollback")
    other.close()
    world.send(segments.predictions([1], [0]))
    assert world.received() == 1
    world.database.close()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the devices, to be copied: migrations are the slow part."""
    path = tmp_path_factory.mktemp("empty") / "shoal.db"
    open_world(path).database.close()
    return path


class PowerCut(Exception):
    """The process died here."""


def test_a_crash_before_the_commit_leaves_nothing(world: World) -> None:
    """What was not committed is not acknowledged, and counts when it comes again."""

    class Dying:
        @contextmanager
        def storing(self, received: float) -> Iterator[Intake]:
            with world.telemetry.storing(received) as intake:
                yield intake
                raise PowerCut

    dying = Ingest(Dying(), DEVICES.get, world._publish, lambda: 100.0)
    sent = segments.predictions([1, 2], [0, 1])
    with pytest.raises(PowerCut):
        dying.ingest([("ant", segments.seal("ant", DEVICES["ant"], sent))])
    assert (world.received(), world.acknowledged) == (0, [])
    world.send(sent)
    assert world.received() == 2


def test_a_crash_between_commit_and_acknowledgement_is_mended(world: World) -> None:
    """The device sends again what was stored but not acknowledged; it counts once."""

    def publish(topic: str, payload: bytes) -> None:
        raise PowerCut

    dying = Ingest(world.telemetry, DEVICES.get, publish, lambda: 100.0)
    sent = segments.predictions([1, 2], [0, 1])
    with pytest.raises(PowerCut):
        dying.ingest([("ant", segments.seal("ant", DEVICES["ant"], sent))])
    world.send(sent)
    assert world.received() == 2
    assert world.faults() == [None]


def test_what_is_not_proven_is_dropped_without_a_word(world: World) -> None:
    """A wrong tag, a foreign key, another device's topic, an unknown device, no bytes, too many."""
    sent = segments.predictions([1, 2], [0, 1])
    good = segments.seal("ant", DEVICES["ant"], sent)
    flipped = bytes([good[0] ^ 1]) + good[1:]
    world.ingest.ingest(
        [
            ("ant", flipped),
            ("ant", segments.seal("ant", DEVICES["bee"], sent)),
            ("bee", good),
            ("cat", segments.seal("cat", b"m" * 32, sent)),
            ("ant", b""),
            ("ant", b"x" * 100_000),
        ]
    )
    assert (world.received(), world.acknowledged) == (0, [])
    assert world.ingest.refused == {"trust.authentication_failed": 5, "wire.too_large": 1}


def test_a_device_that_was_enrolled_again_is_heard(world: World) -> None:
    """A new secret counts at once, and the old one no longer does."""
    secrets = {"ant": b"k" * 32}
    ingest = Ingest(world.telemetry, secrets.get, lambda _topic, _payload: None, lambda: 100.0)
    first, second = segments.predictions([1], [0]), segments.predictions([2], [0])
    ingest.ingest([("ant", segments.seal("ant", b"k" * 32, first))])
    secrets["ant"] = b"n" * 32
    ingest.ingest([("ant", segments.seal("ant", b"n" * 32, second))])
    ingest.ingest([("ant", segments.seal("ant", b"k" * 32, segments.predictions([3], [0])))])
    assert world.received() == 2
    assert ingest.refused == {"trust.authentication_failed": 1}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"body": b""}, "wire.malformed"),
        ({"body": b"\x01rubbish"}, "wire.malformed"),
        ({"body": b"\x63"}, "wire.version_unsupported"),
        ({"rows": 3}, "wire.malformed"),
        ({"schema": "2.0"}, "wire.version_unsupported"),
    ],
)
def test_what_cannot_be_read_is_parked_by_the_device(
    world: World, change: dict[str, object], code: str
) -> None:
    """A proven segment that cannot be stored is acknowledged with the fault, and not counted."""
    sent = msgspec.structs.replace(segments.predictions([1, 2], [0, 1]), **change)
    other = segments.predictions([3, 4], [0, 1])
    world.send(sent, other)
    assert world.received() == 2
    assert [each.key for _, each in world.acknowledged] == [sent.key, other.key]
    assert world.faults() == [code, None]


def test_labels_with_their_answers_are_counted_at_once(world: World) -> None:
    """Rows that bring the predicted class need no stored prediction."""
    world.send(segments.labels([1, 2, 3], [7, 8, 9], [0, 1, 1], predicted=[0, 1, 0]))
    assert world.scores() == {segments.MODEL: (3, 1)}


def test_labels_find_their_predictions(world: World) -> None:
    """A label without its answer is joined with the stored row, and counts for that row's model."""
    world.send(segments.predictions([1, 3], [0, 1]), segments.predictions([2], [1], model=MODEL_2))
    world.send(segments.labels([1, 2, 3], [1, 2, 3], [0, 0, 0], incarnation=OTHER))
    assert world.scores() == {segments.MODEL: (2, 1), MODEL_2: (1, 1)}
    assert world.telemetry.pending_labels() == 0


def test_labels_weeks_apart_read_only_what_holds_their_predictions(world: World) -> None:
    """Of what was stored between an old and a new prediction nothing is read."""
    sent = [segments.predictions([first, first + 1], [0, 1]) for first in range(1, 40, 2)]
    world.send(*sent)
    with world.telemetry.storing(100.0) as intake:
        found = list(intake.answers("ant", segments.INCARNATION, [40, 2, 1]))
    assert [each.body for each in found] == [sent[0].body, sent[-1].body]


def test_labels_wait_for_their_predictions(world: World) -> None:
    """Labels that come first are counted once, when their predictions come."""
    early = segments.labels([1, 2, 3], [2, 3, 9], [0, 1, 1])
    world.send(early)
    assert (world.scores(), world.telemetry.pending_labels()) == ({}, 3)
    late = segments.predictions([1, 2, 3], [0, 1, 1])
    world.send(late, early, late)
    assert world.scores() == {segments.MODEL: (2, 1)}
    assert world.telemetry.pending_labels() == 1


def test_a_label_for_an_interleaved_model_keeps_waiting(world: World) -> None:
    """A label within the range of a segment that lacks its row is not used up by it."""
    world.send(segments.labels([1], [2], [1]))
    world.send(segments.predictions([1, 3], [0, 0]))
    assert (world.scores(), world.telemetry.pending_labels()) == ({}, 1)
    world.send(segments.predictions([2], [1], model=MODEL_2))
    assert world.scores() == {MODEL_2: (1, 0)}


@dataclass(frozen=True)
class Traffic:
    """What a device sent, and the truth about it."""

    sent: tuple[Segment, ...]
    rows: dict[str, int]
    scores: dict[str, tuple[int, int]]


@st.composite
def traffic(draw: st.DrawFn) -> Traffic:
    """Predictions of two models that interleave, cut anywhere, and labels for some of them."""
    count = draw(st.integers(1, 24))
    models = draw(
        st.lists(st.sampled_from([segments.MODEL, MODEL_2]), min_size=count, max_size=count)
    )
    classes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    cuts = draw(st.sets(st.integers(1, count)))
    sent: list[Segment] = []
    rows: dict[str, int] = {}
    scores: dict[str, tuple[int, int]] = {}
    for model in dict.fromkeys(models):
        own = [n for n in range(1, count + 1) if models[n - 1] == model]
        rows[model] = len(own)
        part: list[int] = []
        for number in own:
            part.append(number)
            if number in cuts or number == own[-1]:
                answers = [classes[n - 1] for n in part]
                sent.append(segments.predictions(part, answers, model=model))
                part = []
    labelled = draw(st.lists(st.integers(1, count), max_size=12))
    truths = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    for at, number in enumerate(labelled, start=1):
        true, answered = truths[number - 1], classes[number - 1]
        model = models[number - 1]
        predicted = [answered] if draw(st.booleans()) else None
        sent.append(segments.labels([at], [number], [true], predicted=predicted, model=model))
        if number in labelled[: at - 1]:
            continue  # told before: counts once
        total, wrong = scores.get(model, (0, 0))
        scores[model] = total + 1, wrong + (true != answered)
    return Traffic(tuple(sent), rows, scores)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data(), told=traffic())
def test_any_delivery_gives_the_pooled_truth(
    tmp_path_factory: pytest.TempPathFactory,
    empty_database: Path,
    data: st.DataObject,
    told: Traffic,
) -> None:
    """Any order, any duplicates, any batches: counts are those of the rows themselves."""
    again = data.draw(st.lists(st.sampled_from(told.sent), max_size=8))
    delivery = data.draw(st.permutations([*told.sent, *again]))
    size = data.draw(st.integers(1, len(delivery)))
    path = tmp_path_factory.mktemp("delivery") / "shoal.db"
    shutil.copy(empty_database, path)
    world = World(Database.open(f"sqlite:///{path}"))
    for start in range(0, len(delivery), size):
        world.send(*delivery[start : start + size])
    counts = {row.model: row.received for row in world.telemetry.predictions()}
    assert counts == told.rows
    assert world.scores() == told.scores
    assert world.telemetry.pending_labels() == 0
    assert set(world.faults()) == {None}
    assert len(world.acknowledged) == len(delivery)
    world.database.close()


def test_a_shadows_answers_are_paired_but_not_counted(world: World) -> None:
    """Pairs by number, with labels whenever they came; none of it counts as predictions."""
    shadow = segments.predictions([2, 3, 9], [0, 1, 1], model="c" * 64, kind=SegmentKind.SHADOW)
    live = segments.predictions([1, 2, 3], [0, 1, 1])
    told = segments.labels([1], [2], [0])
    world.send(shadow, shadow, live, told)
    assert world.received() == 3
    names = ("device_id", "live", "shadow")
    sums = (func.sum(pair_count.c[name]) for name in Paired._fields)
    query = select(*(func.max(pair_count.c[name]) for name in names), *sums)
    with world.database.reading() as connection:
        found = tuple(connection.execute(query).one())
    assert found[:3] == ("ant", live.model, "c" * 64)
    assert Paired._make(found[3:]) == Paired(pairs=2, agreed=1, labelled=1, live_only=1)


def test_values_and_segments_count_once_however_feedback_comes(world: World) -> None:
    """Joined by the device, by what is stored here, or by what comes later; told twice: once."""
    world.send(segments.predictions([1, 2], [0, 1], places=[1, 0]))
    told = [(0, "revenue", 256), (1, "revenue", 512), (2, "revenue", 64)]
    first = segments.feedback(
        [1, 2, 3], [1, 2, 3], [0, 0, -1], predicted=[0, -1, -1], places=[1, -1, -1], values=told
    )
    again = segments.feedback([4, 5], [1, 3], [2, 1], places=[-1, -1], values=[(0, "revenue", 9)])
    world.send(first, again)
    world.send(segments.predictions([3], [-1], places=[1]))
    with world.database.reading() as connection:
        outcomes = connection.execute(
            select(outcome_count.c.segment, outcome_count.c.label, outcome_count.c.predicted)
        ).all()
        sums = connection.execute(
            select(value_sum.c.segment, value_sum.c.n, value_sum.c.total, value_sum.c.quantum)
        ).all()
    assert sorted(map(tuple, outcomes)) == [(0, 0, 1), (1, 0, 0), (1, 1, -1)]
    assert sorted(map(tuple, sums)) == [
        (0, 1, 512, 1 / 256),
        (1, 1, 64, 1 / 256),
        (1, 1, 256, 1 / 256),
    ]
    assert (world.scores(), world.telemetry.pending_labels()) == ({segments.MODEL: (3, 2)}, 0)


def test_a_sample_counts_what_it_stands_for(world: World) -> None:
    """All answered predictions count, with their latency, though only some of them came."""
    sent = segments.predictions([3, 7], [0, 1])
    totals = Totals(answered=9, latency_us=900, log_latency=9, log_latency2=9)
    key = msgspec.structs.replace(sent.key, first=1, last=9)
    sample = msgspec.structs.replace(sent, key=key, totals=totals)
    impossible = msgspec.structs.replace(sample, totals=msgspec.structs.replace(totals, answered=1))
    world.send(impossible, sample)
    assert world.faults() == ["wire.malformed", None]
    assert world.received() == 9
    with world.database.reading() as connection:
        query = select(segment.c.answered, segment.c.latency_us)
        assert connection.execute(query).one() == (9, 900)
