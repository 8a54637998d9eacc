"""Telemetry as stored: predictions received, labels counted, windows. `intake` stores them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.exc import DataError, IntegrityError

from control_plane.store.intake import Intake, Unstorable
from control_plane.store.schema import (
    label_count,
    label_pending,
    prediction_count,
    release,
    reported,
    segment,
)
from control_plane.store.tallies import DAY_S
from control_plane.store.tally_schema import window_day

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Column, Select, Table

    from control_plane.store.database import Database


class PredictionRow(NamedTuple):
    """Predictions of one model on one device: answered as it last reported, and received.

    `answered` is None unless the device said that it serves this model now.
    """

    device_id: str
    family: str
    model: str
    version: str | None
    answered: int | None
    received: int
    latest: float | None


class AccuracyRow(NamedTuple):
    """Labels counted for one model on one device."""

    device_id: str
    family: str
    model: str
    version: str | None
    labelled: int
    wrong: int


class WindowsOf(NamedTuple):
    """Window segments of one model, newest first."""

    family: str
    model: str
    version: str | None
    bodies: list[bytes]


class Telemetry:
    """What devices sent of their work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def storing(self, received: float) -> Iterator[Intake]:
        """Give one transaction that stores segments; commits at the end. Raises Unstorable."""
        try:
            with self._database.transaction() as connection:
                yield Intake(connection, received)
        except (IntegrityError, DataError, OverflowError) as error:
            raise Unstorable(str(getattr(error, "orig", None) or error)) from error

    def predictions(self) -> list[PredictionRow]:
        """Return the counts of every device and model that answered or sent anything."""
        received = select(
            prediction_count.c.device_id,
            prediction_count.c.family,
            prediction_count.c.model,
            prediction_count.c.received,
            prediction_count.c.latest,
        )
        serving = select(
            reported.c.device_id,
            reported.c.family,
            reported.c.serving_digest,
            reported.c.answered,
        ).where(reported.c.serving_digest.is_not(None))
        with self._database.reading() as connection:
            versions = {
                row.digest: row.version
                for row in connection.execute(select(release.c.digest, release.c.version))
            }
            counts = {tuple(row[:3]): row for row in connection.execute(received)}
            answered = {tuple(row[:3]): row.answered for row in connection.execute(serving)}
        return [
            PredictionRow(
                device_id=place[0],
                family=place[1],
                model=place[2],
                version=versions.get(place[2]),
                answered=answered.get(place),
                received=counts[place].received if place in counts else 0,
                latest=counts[place].latest if place in counts else None,
            )
            for place in sorted(counts.keys() | answered.keys())
        ]

    def accuracy(self) -> list[AccuracyRow]:
        """Return the labels counted for every device and model."""
        place = label_count.c.device_id, label_count.c.family, label_count.c.model
        statement = (
            select(
                *place,
                release.c.version,
                func.sum(label_count.c.labelled),
                func.sum(label_count.c.wrong),
            )
            .outerjoin(release, release.c.digest == label_count.c.model)
            .group_by(*place, release.c.version)
            .order_by(*place)
        )
        with self._database.reading() as connection:
            return [AccuracyRow._make(row) for row in connection.execute(statement)]

    def pending_labels(self) -> int:
        """Return how many labels wait for their predictions."""
        with self._database.reading() as connection:
            return connection.execute(select(func.count()).select_from(label_pending)).scalar_one()

    def received_since(self, since: float) -> list[tuple[float, int]]:
        """Return (time, predictions received) of every batch since then, oldest first."""
        statement = (
            select(segment.c.received, func.sum(segment.c.rows))
            .where(segment.c.received >= since, segment.c.kind == "predictions")
            .group_by(segment.c.received)
            .order_by(segment.c.received)
        )
        with self._database.reading() as connection:
            return [(row[0], int(row[1])) for row in connection.execute(statement)]

    def windows(
        self, family: str | None, device_ids: Sequence[str] | None, since: float, limit: int
    ) -> list[WindowsOf]:
        """Return the latest windows by model, at most `limit` in all, newest first.

        Family and devices None mean all. Where retention merged a device's windows of a day, that
        is one; it counts if its day ended after `since`.
        """
        whole = _windows(segment, segment.c.received).where(
            segment.c.kind == "window", segment.c.received >= since
        )
        merged = _windows(window_day, window_day.c.started).where(
            window_day.c.body.is_not(None), window_day.c.started > since - DAY_S
        )
        # Membership is tested here: a cohort may have more devices than a statement takes.
        wanted = None if device_ids is None else frozenset(device_ids)
        found: dict[tuple[str, str, str | None], list[bytes]] = {}
        count = 0
        with self._database.reading() as connection:
            for table, statement in ((segment, whole), (window_day, merged)):
                asked = statement if family is None else statement.where(table.c.family == family)
                for row in connection.execute(asked):
                    if count == limit:
                        break
                    if wanted is None or row.device_id in wanted:
                        place = row.family, row.model, row.version
                        found.setdefault(place, []).append(row.body)
                        count += 1
        return [WindowsOf(*place, bodies) for place, bodies in found.items()]

    def latest_window(self) -> float:
        """Return when a window last arrived; 0 if none did."""
        statement = select(func.max(segment.c.received)).where(segment.c.kind == "window")
        with self._database.reading() as connection:
            return float(connection.execute(statement).scalar_one() or 0.0)

    def manifest(self, model: str) -> bytes | None:
        """Return the manifest of a published release by its digest."""
        statement = select(release.c.manifest).where(release.c.digest == model)
        with self._database.reading() as connection:
            body = connection.execute(statement).scalar_one_or_none()
        return None if body is None else bytes(body)


def _windows(table: Table, when: Column[Any]) -> Select[Any]:
    """Select windows of a table with the version of their model, newest first."""
    own = table.c
    return (
        select(own.device_id, own.family, own.model, release.c.version, own.body)
        .outerjoin(release, release.c.digest == own.model)
        .order_by(when.desc())
    )
