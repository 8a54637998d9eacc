"""The fleet at a glance: counts by state and model, and the devices that need a look first.

Reads only, and nothing of it grows with the fleet but the counting itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import case, func, select

from control_plane.store.schema import (
    detection,
    device,
    misconduct,
    prediction_count,
    release,
    reported,
)
from firmware_bundles.wire.messages import DeploymentState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Connection, ScalarSelect, Subquery, Table

    from control_plane.store.database import Database

# By how soon somebody should look; the place in the tuple is the rank in SQL.
STATES: Final = ("no access", "serving", "no model", "updating", "offline", "failed")
_UPDATING: Final = [
    state.value
    for state in DeploymentState
    if state not in {DeploymentState.COMMITTED, DeploymentState.FAILED, DeploymentState.ROLLED_BACK}
]
_FAILED: Final = [DeploymentState.FAILED.value, DeploymentState.ROLLED_BACK.value]


class ModelCount(NamedTuple):
    """How many devices serve a model, by their own signed reports."""

    family: str
    version: str | None
    digest: str | None
    devices: int


class ServingLine(NamedTuple):
    """What one device reports of one family."""

    family: str
    version: str | None
    digest: str | None
    state: str | None
    answered: int | None
    fault_code: str | None
    fault_message: str | None


class DeviceLine(NamedTuple):
    """One device as the page shows it.

    `attacks` counts what it refused because trust forbade it, `misconduct` what others saw it do.
    """

    id: str
    state: str
    labels: Mapping[str, str]
    last_seen: float | None
    buffer: Mapping[str, Any]
    received: int
    families: list[ServingLine]
    access: str
    attacks: int
    misconduct: int


class Fleet(NamedTuple):
    """Counts over all devices, and some of them."""

    states: dict[str, int]
    models: list[ModelCount]
    received: int
    devices: list[DeviceLine]

    @property
    def total(self) -> int:
        """How many devices are enrolled."""
        return sum(self.states.values())


class Overview:
    """Reads the fleet in one consistent view."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, devices_max: int) -> Fleet:
        """Return all counts, and at most `devices_max` devices: those first that need a look."""
        ranks = _ranks()
        with self._database.reading() as connection:
            return Fleet(
                states=_states(connection, ranks),
                models=_models(connection),
                received=_received(connection),
                devices=_devices(connection, ranks, devices_max),
            )


def _ranks() -> Subquery:
    """The rank of each device's state; of several families the worst counts."""
    rank = case(
        (device.c.revoked.is_not(None), STATES.index("no access")),
        (reported.c.state.in_(_FAILED), STATES.index("failed")),
        (~device.c.is_online, STATES.index("offline")),
        (reported.c.state.in_(_UPDATING), STATES.index("updating")),
        (reported.c.serving_digest.is_(None), STATES.index("no model")),
        else_=STATES.index("serving"),
    )
    return (
        select(device.c.id.label("id"), func.max(rank).label("rank"))
        .outerjoin(reported, reported.c.device_id == device.c.id)
        .group_by(device.c.id)
        .subquery()
    )


def _states(connection: Connection, ranks: Subquery) -> dict[str, int]:
    statement = select(ranks.c.rank, func.count()).group_by(ranks.c.rank)
    found = {row[0]: row[1] for row in connection.execute(statement)}
    return {name: found.get(rank, 0) for rank, name in enumerate(STATES)}


def _models(connection: Connection) -> list[ModelCount]:
    place = reported.c.family, reported.c.serving_version, reported.c.serving_digest
    statement = (
        select(*place, func.count())
        .outerjoin(release, release.c.digest == reported.c.serving_digest)
        .group_by(*place, release.c.number)
        .order_by(reported.c.family, release.c.number, reported.c.serving_version)
    )
    return [ModelCount._make(row) for row in connection.execute(statement)]


def _received(connection: Connection) -> int:
    statement = select(func.coalesce(func.sum(prediction_count.c.received), 0))
    return int(connection.execute(statement).scalar_one())


def _access(row: Any) -> str:  # noqa: ANN401 a row of `device`
    if row.retired is not None:
        return "retired"
    if row.revoked is not None:
        return "revoked"
    return "" if row.retiring is None else "erased" if row.erased is not None else "retiring"


def _count(table: Table, *conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    counted = select(func.coalesce(func.sum(table.c.count), 0))
    return counted.where(table.c.device_id == device.c.id, *conditions).scalar_subquery()


def _devices(connection: Connection, ranks: Subquery, devices_max: int) -> list[DeviceLine]:
    received = (
        select(func.coalesce(func.sum(prediction_count.c.received), 0))
        .where(prediction_count.c.device_id == device.c.id)
        .scalar_subquery()
    )
    statement = (
        select(
            device.c.id,
            ranks.c.rank,
            device.c.labels,
            device.c.last_seen,
            device.c.buffer,
            device.c.revoked,
            device.c.retired,
            device.c.retiring,
            device.c.erased,
            received.label("received"),
            _count(detection, detection.c.code.like("trust.%")).label("attacks"),
            _count(misconduct).label("misconduct"),
        )
        .join(ranks, ranks.c.id == device.c.id)
        .order_by(ranks.c.rank.desc(), device.c.id)
        .limit(devices_max)
    )
    rows = connection.execute(statement).all()
    families = _families(connection, [row.id for row in rows])
    return [
        DeviceLine(
            id=row.id,
            state=STATES[row.rank],
            labels=row.labels,
            last_seen=row.last_seen,
            buffer=row.buffer or {},
            received=row.received,
            families=families.get(row.id, []),
            access=_access(row),
            attacks=row.attacks,
            misconduct=row.misconduct,
        )
        for row in rows
    ]


def _families(connection: Connection, device_ids: list[str]) -> dict[str, list[ServingLine]]:
    statement = (
        select(
            reported.c.device_id,
            reported.c.family,
            reported.c.serving_version,
            reported.c.serving_digest,
            reported.c.state,
            reported.c.answered,
            reported.c.fault_code,
            reported.c.fault_message,
        )
        .where(reported.c.device_id.in_(device_ids))
        .order_by(reported.c.device_id, reported.c.family)
    )
    found: dict[str, list[ServingLine]] = {}
    for row in connection.execute(statement):
        found.setdefault(row.device_id, []).append(ServingLine._make(row[1:]))
    return found
