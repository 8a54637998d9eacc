"""Statements on sums of segments: added to as segments are stored, moved from hours into days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import delete, func, select, text

from control_plane.store import many
from control_plane.store.schema import release
from control_plane.store.tally_schema import LATENCY_COLUMNS, tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from control_plane.store.database import Database

HOUR_S: Final = 3_600
DAY_S: Final = 86_400

_SUMS: Final = ("segments", "rows", "answered", "latency_us", *LATENCY_COLUMNS)
_PLACE: Final = ("started", "device_id", "family", "model", "kind")
_ALL: Final = ", ".join(("span", "started", "device_id", "family", "model", "arm", "kind", *_SUMS))
_ADDED: Final = ", ".join(f"{name} = tally.{name} + excluded.{name}" for name in _SUMS)
_CONFLICT: Final = (
    "on conflict (span, started, device_id, family, model, arm, kind) do update set "
) + _ADDED
_ADD: Final = f"""
    with arriving ({", ".join((*_PLACE, *_SUMS))}) as (values {{rows}})
    insert into tally ({_ALL})
    select 'hour', started, device_id, family, model, coalesce((
            select desired.arm from desired
            where desired.device_id = arriving.device_id and desired.family = arriving.family
                and desired.digest = arriving.model), ''),
        kind, {", ".join(_SUMS)}
    from arriving where true
    {_CONFLICT}
"""  # noqa: S608 constants
_FOLD: Final = text(f"""
    insert into tally ({_ALL})
    select 'day', :day, device_id, family, model, arm, kind, {", ".join(_SUMS)}
    from tally where span = 'hour' and started = :hour
    {_CONFLICT}
""")  # noqa: S608 constants


class Place(NamedTuple):
    """Whose segments a sum is of: `started` is the hour's begin, in Unix seconds."""

    started: int
    device_id: str
    family: str
    model: str
    kind: str


class Sums(NamedTuple):
    """What segments add up to; `latency` counts rows by bucket (see `telemetry.latency`)."""

    segments: int
    rows: int
    answered: int
    latency_us: int
    latency: tuple[int, ...]

    def plus(self, other: Sums) -> Sums:
        """The sum of both."""
        return Sums(
            segments=self.segments + other.segments,
            rows=self.rows + other.rows,
            answered=self.answered + other.answered,
            latency_us=self.latency_us + other.latency_us,
            latency=tuple(a + b for a, b in zip(self.latency, other.latency, strict=True)),
        )


class LatencyRow(NamedTuple):
    """The predictions of one model on one device and arm, summed up."""

    device_id: str
    family: str
    model: str
    version: str | None
    arm: str
    answered: int
    latency_us: int
    counts: tuple[int, ...]


def hour_of(received: float) -> int:
    """Return when the hour began that this time is in."""
    return int(received) // HOUR_S * HOUR_S


def add(connection: Connection, sums: Iterable[tuple[Place, Sums]]) -> None:
    """Add to hours, each place once; the arm is the one that the device is on now."""
    many.run(connection, _ADD, [(*place, *of[:4], *of.latency) for place, of in sums])


def fold(connection: Connection, before: float) -> int:
    """Move the oldest hour that began before this time into its day; return its rows."""
    hour = connection.execute(
        select(func.min(tally.c.started)).where(tally.c.span == "hour", tally.c.started < before)
    ).scalar_one()
    if hour is None:
        return 0
    # SQLite (3.40) wants `where` before `on conflict`, which the statement has.
    connection.execute(_FOLD, {"day": hour // DAY_S * DAY_S, "hour": hour})
    own = tally.c.span == "hour", tally.c.started == hour
    return connection.execute(delete(tally).where(*own)).rowcount


def drop(connection: Connection, before: float, limit: int) -> int:
    """Delete days that began before this time; return how many rows."""
    found = connection.execute(
        select(tally.c.started, tally.c.device_id)
        .where(tally.c.span == "day", tally.c.started < before)
        .order_by(tally.c.started)
        .limit(limit)
    ).all()
    count = 0
    for started, device_id in dict.fromkeys(tuple(row) for row in found):
        own = tally.c.span == "day", tally.c.started == started, tally.c.device_id == device_id
        count += connection.execute(delete(tally).where(*own)).rowcount
    return count


class Tallies:
    """What came, summed up by hour and day."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latency(
        self, family: str | None, device_ids: Sequence[str] | None, since: float
    ) -> list[LatencyRow]:
        """Return predictions that came since then, by device, model and arm.

        Hours and days that began before `since` and end after it count as a whole.
        """
        place = tally.c.device_id, tally.c.family, tally.c.model, release.c.version, tally.c.arm
        names = ("answered", "latency_us", *LATENCY_COLUMNS)
        is_recent = (tally.c.span == "hour") & (tally.c.started > since - HOUR_S)
        is_recent |= (tally.c.span == "day") & (tally.c.started > since - DAY_S)
        statement = (
            select(*place, *(func.sum(tally.c[name]) for name in names))
            .outerjoin(release, release.c.digest == tally.c.model)
            .where(tally.c.kind == "predictions", is_recent)
            .group_by(*place)
            .order_by(*place)
        )
        if family is not None:
            statement = statement.where(tally.c.family == family)
        wanted = None if device_ids is None else frozenset(device_ids)
        with self._database.reading() as connection:
            rows: list[Any] = [
                row
                for row in connection.execute(statement)
                if wanted is None or row.device_id in wanted
            ]
        return [
            LatencyRow._make((*row[:5], int(row[5]), int(row[6]), tuple(int(n) for n in row[7:])))
            for row in rows
        ]
