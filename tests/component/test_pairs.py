"""Pairs of live and mirrored answers: each counts once, in whatever order segments come."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from sqlalchemy import func, select

from control_plane.store.arrivals import Sent
from control_plane.store.database import Database
from control_plane.store.schema import pair_count
from control_plane.store.telemetry import Telemetry
from control_plane.telemetry.ingest import Ingest
from control_plane.telemetry.pairing import Paired
from firmware_bundles.wire.messages import Segment, SegmentKind
from support import fleet_rows, segments

SECRET = b"k" * 32
SHADOW = "c" * 64
# Inputs 2 to 5 have both answers; 2 and 3 have labels that the device joined, 4 one it did not,
# 5 has none; the label of 9 has a live answer only.
LIVE = segments.predictions([1, 2, 3, 4, 5, 9], [0, 1, 1, 0, 0, 0])
MIRRORED = segments.predictions([2, 3, 4, 5], [0, 1, 1, 0], model=SHADOW, kind=SegmentKind.SHADOW)
TOLD = segments.labels([1, 2, 3], [2, 3, 9], [0, 0, 0], predicted=[1, 1, 0])
LATE = segments.labels([4], [4], [0])
EXPECTED = Paired(pairs=4, agreed=2, labelled=3, live_only=1, shadow_only=1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database without devices."""
    made = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    yield made
    made.close()


def _send(database: Database, device_id: str, batch: list[Segment]) -> None:
    ingest = Ingest(
        Telemetry(database), lambda _: SECRET, lambda _topic, _payload: None, lambda: 100.0
    )
    ingest.ingest([(device_id, segments.seal(device_id, SECRET, each)) for each in batch])


def _counted(database: Database, device_id: str) -> Paired:
    query = select(*(func.sum(pair_count.c[name]) for name in Paired._fields)).where(
        pair_count.c.device_id == device_id,
        pair_count.c.live == segments.MODEL,
        pair_count.c.shadow == SHADOW,
    )
    with database.reading() as connection:
        return Paired._make(connection.execute(query).one())


def test_pairs_are_the_same_in_every_order_and_in_every_batch(database: Database) -> None:
    """Whichever segment comes last completes a pair; what is sent again adds nothing."""
    for number, order in enumerate(permutations([LIVE, MIRRORED, TOLD, LATE])):
        for split in range(1, 5):
            device_id = f"device-{number}-{split}"
            fleet_rows.enrol(database, device_id, secret=SECRET)
            _send(database, device_id, list(order[:split]))
            _send(database, device_id, list(order[split:]))
            _send(database, device_id, list(order))
            assert _counted(database, device_id) == EXPECTED, (
                split,
                [each.key.kind for each in order],
            )


def test_labels_weeks_apart_read_only_what_a_shadow_answered_to_them(database: Database) -> None:
    """Of the shadow's segments between an old and a new input nothing is read."""
    fleet_rows.enrol(database, "ant", secret=SECRET)
    kind = SegmentKind.SHADOW
    sent = [segments.predictions([at, at + 1], [0, 1], kind=kind) for at in range(1, 40, 2)]
    _send(database, "ant", sent)
    with Telemetry(database).storing(100.0) as intake:
        intake.pairs.begin([Sent("ant", LIVE)])
        found = list(intake.pairs.shadows_at("ant", segments.INCARNATION, {40, 2, 1}))
    assert [each.body for each in found] == [sent[0].body, sent[-1].body]


def test_of_two_labels_for_one_input_the_first_counts(database: Database) -> None:
    """In one segment as in two, whether or not the shadow's answers came before."""
    twice = segments.labels([1, 2], [2, 2], [1, 0], predicted=[1, 1])
    for number, order in enumerate(permutations([LIVE, MIRRORED, twice])):
        fleet_rows.enrol(database, f"device-{number}", secret=SECRET)
        _send(database, f"device-{number}", list(order))
        for each in order:
            _send(database, f"device-{number}", [each])
        counted = _counted(database, f"device-{number}")
        assert (counted.labelled, counted.live_only, counted.shadow_only) == (1, 0, 1)
