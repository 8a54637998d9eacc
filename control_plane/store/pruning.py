"""Statements of retention: what is old is taken, summed up elsewhere and deleted, all in one go."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, case, delete, func, insert, select, update

from control_plane.rollouts.model import OPEN_STATES
from control_plane.store import many, tallies
from control_plane.store.label_sums import HISTORY_S
from control_plane.store.schema import (
    feedback,
    label_count,
    label_pending,
    outcome_count,
    pair_count,
    report_counter,
    rollout,
    segment,
    value_sum,
)
from control_plane.store.tally_schema import deleted, segment_past, service_count, window_day
from control_plane.telemetry.ranges import Range, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Connection, Table

    from control_plane.store.database import Database
    from control_plane.store.tallies import Place, Sums

_REMOVE: Final = """
    delete from segment where (device_id, incarnation, kind, first) in (values {rows})
"""

_READ_BY_GATES: Final = (label_count, outcome_count, value_sum, pair_count)


class Old(NamedTuple):
    """A segment whose time is over; `answered` and `latency_us` are None for some kinds."""

    device_id: str
    incarnation: str
    kind: str
    first: int
    last: int
    family: str
    model: str
    rows: int
    received: float
    body: bytes
    answered: int | None
    latency_us: int | None
    is_tallied: bool


class WindowDay(NamedTuple):
    """What one device's deleted windows of one day add up to; `body` is the encoded sketch."""

    started: int
    device_id: str
    family: str
    model: str
    windows: int
    unreadable: int
    rows: int
    body: bytes | None


class Deletion(NamedTuple):
    """How many rows retention deleted so far, and when last."""

    what: str
    rows: int
    latest: float


class Prune:
    """One transaction that deletes; `now` is when."""

    def __init__(self, connection: Connection, now: float) -> None:
        self._connection = connection
        self._now = now

    def segments(self, kind: str, before: float, limit: int) -> list[Old]:
        """Return the oldest segments of a kind that came before this time."""
        statement = (
            select(*(segment.c[name] for name in Old._fields))
            .where(segment.c.kind == kind, segment.c.received < before)
            .order_by(segment.c.received)
            .limit(limit)
        )
        return [Old._make(row) for row in self._connection.execute(statement)]

    def tally(self, sums: Iterable[tuple[Place, Sums]]) -> None:
        """Add segments to the tally that were stored before there was one."""
        tallies.add(self._connection, list(sums))

    def window_day(self, started: int, device_id: str, family: str, model: str) -> WindowDay | None:
        """Return what is summed up already."""
        own = _own(window_day, (started, device_id, family, model))
        row = self._connection.execute(select(window_day).where(own)).first()
        return None if row is None else WindowDay._make(row)

    def keep_window_day(self, of: WindowDay) -> None:
        """Write a day's sum anew."""
        many.upsert(self._connection, window_day, [of._asdict()])

    def remove(self, old: Sequence[Old]) -> None:
        """Delete segments, and remember that there were these."""
        groups: dict[tuple[str, str, str, str], list[Range]] = {}
        for each in old:
            place = each.device_id, each.incarnation, each.kind, each.model
            groups.setdefault(place, []).append(Range(each.first, each.last, each.received))
        for place, ranges in groups.items():
            for gone in joined(ranges):
                self._remember(place, gone)
        many.run(self._connection, _REMOVE, [tuple(each[:4]) for each in old])
        for kind in {each.kind for each in old}:
            came = [each.received for each in old if each.kind == kind]
            self._count(segments_of(kind), len(came), until=max(came))

    def rows(self, table: str, before: float, limit: int) -> int:
        """Delete the oldest rows of a table that came before this time; return how many.

        What labels, values and pairs counted stays while a rollout is open that may read it.
        """
        of = {
            "label_pending": label_pending,
            "feedback": feedback,
            "segment_past": segment_past,
            "service_count": service_count,
            "label_count": label_count,
            "outcome_count": outcome_count,
            "value_sum": value_sum,
            "pair_count": pair_count,
        }
        own = of[table]
        if own in _READ_BY_GATES:
            before = min(before, self._open_since() - HISTORY_S)
        keys = list(own.primary_key)
        found = self._connection.execute(
            select(*keys).where(own.c.received < before).order_by(own.c.received).limit(limit)
        ).all()
        for row in found:
            self._connection.execute(delete(own).where(_own(own, tuple(row))))
        self._count(f"rows of {table}", len(found))
        return len(found)

    def report_counters(self, incarnations_max: int) -> int:
        """Delete the oldest incarnations of the device that has most of them beyond the limit."""
        columns = report_counter.c.device_id, func.max(report_counter.c.turn)
        most = self._connection.execute(
            select(*columns)
            .group_by(report_counter.c.device_id)
            .having(func.count() > incarnations_max)
            .limit(1)
        ).first()
        if most is None:
            return 0
        own = report_counter.c.device_id == most[0]
        is_old = report_counter.c.turn <= most[1] - incarnations_max
        count = self._connection.execute(delete(report_counter).where(own, is_old)).rowcount
        self._count("rows of report_counter", count)
        return count

    def hours(self, before: float) -> int:
        """Move an hour of the tally that began before this time into its day."""
        return tallies.fold(self._connection, before)

    def days(self, before: float, limit: int) -> int:
        """Delete days of the tally, and of windows, that began before this time."""
        count = tallies.drop(self._connection, before, limit)
        found = delete(window_day).where(window_day.c.started < before)
        windows = self._connection.execute(found).rowcount
        self._count("rows of tally", count)
        self._count("rows of window_day", windows)
        return count + windows

    def _open_since(self) -> float:
        """Return when the oldest rollout was created that is still open."""
        oldest = select(func.min(rollout.c.created)).where(rollout.c.state.in_(sorted(OPEN_STATES)))
        created: float | None = self._connection.execute(oldest).scalar_one()
        return math.inf if created is None else created

    def _remember(self, place: tuple[str, str, str, str], gone: Range) -> None:
        """Join a range with those that it touches."""
        names = ("device_id", "incarnation", "kind", "model")
        own = and_(*(segment_past.c[n] == v for n, v in zip(names, place, strict=True)))
        touching = (segment_past.c.last == gone.first - 1) | (segment_past.c.first == gone.last + 1)
        columns = segment_past.c.first, segment_past.c.last, segment_past.c.received
        found = self._connection.execute(select(*columns).where(own, touching)).all()
        if found:
            self._connection.execute(delete(segment_past).where(own, touching))
        (whole,) = joined([gone, *(Range._make(row) for row in found)])
        values = dict(zip(names, place, strict=True)) | whole._asdict()
        self._connection.execute(insert(segment_past).values(values))

    def _count(self, what: str, more: int, until: float | None = None) -> None:
        if not more:
            return
        own = deleted.c.what == what
        added = self._connection.execute(
            update(deleted)
            .where(own)
            .values(
                count=deleted.c.count + more,
                latest=self._now,
                until=case(
                    (func.coalesce(deleted.c.until, -math.inf) < until, until),
                    else_=deleted.c.until,
                )
                if until is not None
                else deleted.c.until,
            )
        )
        if added.rowcount == 0:
            values = {"what": what, "count": more, "latest": self._now, "until": until}
            self._connection.execute(insert(deleted).values(values))


class Pruning:
    """Deletes what is old, and tells what was deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def at(self, now: float) -> Iterator[Prune]:
        """Give one transaction; commits at the end."""
        with self._database.transaction() as connection:
            yield Prune(connection, now)

    def deletions(self) -> list[Deletion]:
        """Return what was deleted so far."""
        with self._database.reading() as connection:
            own = deleted.c
            columns = select(own.what, own["count"], own.latest)
            rows = connection.execute(columns.order_by(own.what))
            return [Deletion._make(row) for row in rows]

    def stored(self) -> list[tuple[str, int, int]]:
        """Return kind, segments and rows of what is stored now."""
        sums = select(segment.c.kind, func.count(), func.sum(segment.c.rows))
        with self._database.reading() as connection:
            rows = connection.execute(sums.group_by(segment.c.kind).order_by(segment.c.kind))
            return [(row[0], row[1], int(row[2])) for row in rows]


def segments_of(kind: str) -> str:
    """Return what deleted segments of a kind are counted under."""
    return f"segments of {kind}"


def deleted_until(connection: Connection, kind: str) -> float | None:
    """Return when the newest deleted segment of a kind came, None if none is known of."""
    of = select(deleted.c.until).where(deleted.c.what == segments_of(kind))
    until: float | None = connection.execute(of).scalar_one_or_none()
    return until


def _own(table: Table, key: tuple[Any, ...]) -> Any:  # noqa: ANN401 a condition
    return and_(*(c == v for c, v in zip(table.primary_key, key, strict=False)))
