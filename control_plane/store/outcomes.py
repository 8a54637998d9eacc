"""What labels, business values and windows say, by device and model, since a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import func, select

from control_plane.store.schema import (
    deployment,
    label_count,
    outcome_count,
    release,
    segment,
    value_sum,
)
from firmware_bundles.wire.messages import Arm, SegmentKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Connection, Row, Table

    from control_plane.store.database import Database

_DEVICES_AT_ONCE: Final = 5_000
_WINDOWS_AT_ONCE: Final = 500


class Place(NamedTuple):
    """One model on one device; `version` is None where the release is not known here."""

    device_id: str
    family: str
    model: str
    version: str | None


class LabelRow(NamedTuple):
    """Labels counted, and answers that they contradicted."""

    place: Place
    labelled: int
    wrong: int


class OutcomeRow(NamedTuple):
    """How often one outcome came; `predicted` is -1 for no class."""

    place: Place
    segment: int
    label: int
    predicted: int
    rows: int


class ValueRow(NamedTuple):
    """Moments of one business value, in quanta of 2 ** -`exponent`."""

    place: Place
    name: str
    exponent: int
    segment: int
    n: int
    total: int
    total2: int
    minimum: int
    maximum: int


class WindowRow(NamedTuple):
    """One window's sketch as the device sent it."""

    place: Place
    body: bytes


class Asked(NamedTuple):
    """Which devices (None: all) and family (None: all), since when."""

    devices: Collection[str] | None
    family: str | None
    since: float


class Outcomes:
    """Reads what `intake` stored."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def labels(self, asked: Asked) -> list[LabelRow]:
        """Return the labels of every device and model."""
        sums = func.sum(label_count.c.labelled), func.sum(label_count.c.wrong)
        rows = self._grouped(label_count, asked, (), sums)
        return [LabelRow(place, int(row[0]), int(row[1])) for place, row in rows]

    def outcomes(self, asked: Asked) -> list[OutcomeRow]:
        """Return the outcomes of every device and model."""
        of = outcome_count.c
        key = of.segment, of.label, of.predicted
        rows = self._grouped(outcome_count, asked, key, (func.sum(of["count"]),))
        return [OutcomeRow(place, row[0], row[1], row[2], int(row[3])) for place, row in rows]

    def values(self, asked: Asked) -> list[ValueRow]:
        """Return the business values of every device and model."""
        of = value_sum.c
        key = of.name, of.exponent, of.segment
        sums = func.sum(of.n), func.sum(of.total), func.sum(of.total2)
        ranges = func.min(of.minimum), func.max(of.maximum)
        rows = self._grouped(value_sum, asked, key, (*sums, *ranges))
        return [ValueRow(place, *row[:3], *(int(each) for each in row[3:])) for place, row in rows]

    def windows(self, asked: Asked, limit: int) -> list[WindowRow]:
        """Return the latest windows, newest first, at most `limit`."""
        said = segment.c
        query = (
            select(said.device_id, said.family, said.model, release.c.version, said.body)
            .outerjoin(release, release.c.digest == said.model)
            .where(said.kind == SegmentKind.WINDOW.value, said.received >= asked.since)
            .order_by(said.received.desc())
        )
        if asked.family is not None:
            query = query.where(said.family == asked.family)
        if asked.devices is None:
            query = query.limit(limit)
        wanted = None if asked.devices is None else frozenset(asked.devices)
        found: list[WindowRow] = []
        with self._database.reading() as connection:
            # Few at a time: windows of devices that were not asked for may be many.
            for row in connection.execute(query.execution_options(yield_per=_WINDOWS_AT_ONCE)):
                if len(found) == limit:
                    break
                if wanted is None or row.device_id in wanted:
                    found.append(WindowRow(Place._make(row[:4]), bytes(row.body)))
        return found

    def arms(self, rollout_id: str) -> dict[str, Arm]:
        """Return the arm of each device of a rollout, none if there is no such rollout."""
        query = select(deployment.c.device_id, deployment.c.generation).where(
            deployment.c.rollout_id == rollout_id, deployment.c.generation >= 0
        )
        with self._database.reading() as connection:
            return {
                device_id: Arm.CANDIDATE if generation else Arm.CONTROL
                for device_id, generation in connection.execute(query)
            }

    def _grouped(
        self,
        table: Table,
        asked: Asked,
        key: tuple[Any, ...],
        sums: tuple[Any, ...],
    ) -> list[tuple[Place, tuple[Any, ...]]]:
        place = table.c.device_id, table.c.family, table.c.model
        query = (
            select(*place, release.c.version, *key, *sums)
            .outerjoin(release, release.c.digest == table.c.model)
            .where(table.c.received >= asked.since)
            .group_by(*place, release.c.version, *key)
            .order_by(*place, *key)
        )
        if asked.family is not None:
            query = query.where(table.c.family == asked.family)
        with self._database.reading() as connection:
            found = _of_devices(connection, query, table, asked.devices)
            return [(Place._make(row[:4]), tuple(row[4:])) for row in found]


def _of_devices(
    connection: Connection,
    query: Any,  # noqa: ANN401 - a statement
    table: Table,
    devices: Collection[str] | None,
) -> Iterator[Row[Any]]:
    """Ask for so many devices at a time as a statement takes."""
    if devices is None:
        yield from connection.execute(query)
        return
    wanted = sorted(devices)
    for start in range(0, len(wanted), _DEVICES_AT_ONCE):
        part = wanted[start : start + _DEVICES_AT_ONCE]
        yield from connection.execute(query.where(table.c.device_id.in_(part)))
