"""Samples as stored: segments of captured inputs, with the labels that were told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select, tuple_

from control_plane.store.schema import release, segment
from firmware_bundles.wire.messages import SegmentKind

if TYPE_CHECKING:
    from control_plane.store.database import Database

_COLUMNS = ("device_id", "incarnation", "first", "last", "model", "rows", "started", "received")


class Query(NamedTuple):
    """Which samples: those of a family that came from `since` on and before `until`.

    `model` is the digest of a manifest, None for all; so are no `devices`.
    """

    family: str
    since: float
    until: float
    model: str | None = None
    devices: frozenset[str] | None = None


class Place(NamedTuple):
    """Where a segment of samples stands among all of a family."""

    device_id: str
    incarnation: str
    first: int


class SampleSegment(NamedTuple):
    """A stored segment of samples; `release` is the path of its model's, if it is published."""

    device_id: str
    incarnation: str
    first: int
    last: int
    model: str
    rows: int
    started: float
    received: float
    body: bytes
    release: str | None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.device_id, self.incarnation, self.first)


class SampleCount(NamedTuple):
    """Samples of one model that are stored, and from how many devices."""

    family: str
    model: str
    version: str | None
    devices: int
    samples: int
    first: float
    latest: float


class Samples:
    """What devices captured."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self) -> list[SampleCount]:
        """Return how many samples are stored by model."""
        own = segment.c
        statement = (
            select(
                own.family,
                own.model,
                release.c.version,
                func.count(own.device_id.distinct()),
                func.sum(own.rows),
                func.min(own.received),
                func.max(own.received),
            )
            .outerjoin(release, release.c.digest == own.model)
            .where(own.kind == SegmentKind.SAMPLES.value)
            .group_by(own.family, own.model, release.c.version)
            .order_by(own.family, own.model)
        )
        with self._database.reading() as connection:
            return [SampleCount._make(row) for row in connection.execute(statement)]

    def page(self, query: Query, after: Place | None, limit: int) -> list[SampleSegment]:
        """Return the next segments in order of device, incarnation and number."""
        own = segment.c
        statement = (
            select(*(own[name] for name in (*_COLUMNS, "body")), release.c.path)
            .outerjoin(release, release.c.digest == own.model)
            .where(
                own.kind == SegmentKind.SAMPLES.value,
                own.family == query.family,
                own.received >= query.since,
                own.received < query.until,
            )
            .order_by(own.device_id, own.incarnation, own.first)
        )
        if query.model is not None:
            statement = statement.where(own.model == query.model)
        if after is not None:
            place = tuple_(own.device_id, own.incarnation, own.first)
            statement = statement.where(place > tuple_(*after))
        found: list[SampleSegment] = []
        with self._database.reading() as connection:
            for row in connection.execute(statement):
                # Here, for a cohort may have more devices than a statement takes.
                if query.devices is None or row.device_id in query.devices:
                    found.append(SampleSegment._make(row))
                    if len(found) == limit:
                        break
        return found

    def labels(self, device_id: str, family: str, until: float) -> list[bytes]:
        """Return the bodies of a device's labels that came before `until`, in order of arrival."""
        own = segment.c
        statement = (
            select(own.body)
            .where(
                own.device_id == device_id,
                own.kind == SegmentKind.LABELS.value,
                own.family == family,
                own.received < until,
            )
            .order_by(own.received, own.incarnation, own.first)
        )
        with self._database.reading() as connection:
            return [bytes(row.body) for row in connection.execute(statement)]
