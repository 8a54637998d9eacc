"""Statements that store segments, all inside one transaction. Reading stands in `telemetry`."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, select, text

from control_plane.store.schema import label_count, label_pending, segment
from control_plane.telemetry.labels import Score, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from firmware_bundles.wire.messages import Segment, SegmentKey

# The segments of one model do not overlap; those of two models may interleave.
_ADD: Final = text("""
    insert into segment
        (device_id, incarnation, kind, first, last, family, model, rows, started, ended,
        received, body)
    select :device_id, :incarnation, :kind, :first, :last, :family, :model, :rows, :started, :ended,
        :received, :body
    where coalesce((
        select earlier.last from segment as earlier
        where earlier.device_id = :device_id and earlier.incarnation = :incarnation
            and earlier.kind = :kind and earlier.first <= :last and earlier.model = :model
        order by earlier.first desc limit 1), 0) < :first
    on conflict do nothing
""")
_COUNT: Final = text("""
    insert into prediction_count (device_id, family, model, received, segments, latest)
    values (:device_id, :family, :model, :received, :segments, :latest)
    on conflict (device_id, family, model) do update set
        received = prediction_count.received + excluded.received,
        segments = prediction_count.segments + excluded.segments,
        latest = excluded.latest
""")


class Unstorable(Exception):
    """Something of a transaction breaks a rule of the schema, now and whenever it is tried."""


class Stored(Enum):
    """What became of a segment."""

    NEW = auto()
    DUPLICATE = auto()
    OVERLAPPING = auto()


class Answers(NamedTuple):
    """A stored predictions segment, as far as labels need it."""

    family: str
    model: str
    body: bytes


class Waiting(NamedTuple):
    """A label that waits for its prediction."""

    id: int
    wanted: Wanted


class Intake:
    """One transaction that stores what devices sent at the time `received`."""

    def __init__(self, connection: Connection, received: float) -> None:
        self._connection = connection
        self._received = received
        columns = label_pending.c.device_id, label_pending.c.incarnation
        waiting = connection.execute(select(*columns).distinct()).all()
        self._waiting = {(row.device_id, row.incarnation) for row in waiting}
        self._predictions: dict[tuple[str, str, str], tuple[int, int]] = {}

    def add(self, device_id: str, sealed: Segment) -> Stored:
        """Store a segment unless it, or one that overlaps it, is there."""
        values: dict[str, Any] = {
            "device_id": device_id,
            "incarnation": sealed.key.incarnation,
            "kind": sealed.key.kind.value,
            "first": sealed.key.first,
            "last": sealed.key.last,
            "family": sealed.family,
            "model": sealed.model,
            "rows": sealed.rows,
            "started": sealed.started,
            "ended": sealed.ended,
            "received": self._received,
            "body": sealed.body,
        }
        if self._connection.execute(_ADD, values).rowcount == 1:
            return Stored.NEW
        same = select(segment.c.last, segment.c.model, segment.c.rows).where(
            segment.c.device_id == device_id,
            segment.c.incarnation == sealed.key.incarnation,
            segment.c.kind == sealed.key.kind.value,
            segment.c.first == sealed.key.first,
        )
        row = self._connection.execute(same).first()
        is_same = row is not None and tuple(row) == (sealed.key.last, sealed.model, sealed.rows)
        return Stored.DUPLICATE if is_same else Stored.OVERLAPPING

    def count_predictions(self, device_id: str, sealed: Segment) -> None:
        """Count the rows of a new predictions segment; written by `finish`."""
        place = device_id, sealed.family, sealed.model
        rows, segments = self._predictions.get(place, (0, 0))
        self._predictions[place] = rows + sealed.rows, segments + 1

    def finish(self) -> None:
        """Write what was summed up over the whole batch."""
        rows = [
            {
                "device_id": device_id,
                "family": family,
                "model": model,
                "received": received,
                "segments": segments,
                "latest": self._received,
            }
            for (device_id, family, model), (received, segments) in self._predictions.items()
        ]
        if rows:
            self._connection.execute(_COUNT, rows)

    def count_labels(
        self, device_id: str, settled_by: SegmentKey, family: str, model: str, score: Score
    ) -> None:
        """Store the score of labels that the arrival of a segment settled."""
        values = {
            "device_id": device_id,
            "incarnation": settled_by.incarnation,
            "kind": settled_by.kind.value,
            "first": settled_by.first,
            "model": model,
            "family": family,
            "received": self._received,
            **score._asdict(),
        }
        self._connection.execute(insert(label_count), values)

    def answers(self, device_id: str, incarnation: str, first: int, last: int) -> list[Answers]:
        """Return the stored predictions segments that may hold sequence numbers first..last."""
        statement = select(segment.c.family, segment.c.model, segment.c.body).where(
            segment.c.device_id == device_id,
            segment.c.incarnation == incarnation,
            segment.c.kind == "predictions",
            segment.c.first <= last,
            segment.c.last >= first,
        )
        return [Answers._make(row) for row in self._connection.execute(statement)]

    def keep_labels(self, device_id: str, wanted: Sequence[Wanted]) -> None:
        """Let labels wait for their predictions."""
        rows = [
            {"device_id": device_id, "received": self._received, **each._asdict()}
            for each in wanted
        ]
        if rows:
            self._connection.execute(insert(label_pending), rows)
            self._waiting.update((device_id, each.incarnation) for each in wanted)

    def waiting(self, device_id: str, key: SegmentKey) -> list[Waiting]:
        """Return the labels that may wait for this predictions segment."""
        if (device_id, key.incarnation) not in self._waiting:
            return []
        columns = (label_pending.c[name] for name in ("id", *Wanted._fields))
        statement = select(*columns).where(
            label_pending.c.device_id == device_id,
            label_pending.c.incarnation == key.incarnation,
            label_pending.c.sequence.between(key.first, key.last),
        )
        rows = self._connection.execute(statement)
        return [Waiting(row.id, Wanted(*row[1:])) for row in rows]

    def settle(self, waited: Sequence[Waiting]) -> None:
        """Forget labels that wait no longer."""
        statement = delete(label_pending).where(label_pending.c.id == bindparam("waited"))
        if waited:
            self._connection.execute(statement, [{"waited": each.id} for each in waited])
