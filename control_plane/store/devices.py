"""Rows of devices: identity, presence, what is wanted of each and what each reported.

How reports are checked stands in `fleet.reports`, what presence means in `fleet.presence`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
from sqlalchemy import select, update

from control_plane.audit import SERVICE, Statement
from control_plane.store import audit
from control_plane.store.dialects import upsert
from control_plane.store.schema import (
    desired,
    detection,
    device,
    misconduct,
    report_counter,
    reported,
)
from firmware_bundles.errors import NotFound
from firmware_bundles.wire.messages import Arm, ModelReference, Order, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Table

    from control_plane.store.database import Database
    from firmware_bundles.wire.messages import FamilyReport, Report

_IDS_PER_STATEMENT: Final = 500

ItemT = TypeVar("ItemT")


class DeviceRow(NamedTuple):
    """A device as an operator sees it."""

    id: str
    labels: Mapping[str, str]
    inventory: Mapping[str, Any]
    agent_version: str
    enrolled: float
    last_seen: float | None
    is_online: bool
    buffer: Mapping[str, Any] | None
    revoked: float | None
    retired: float | None
    retiring: float | None
    retire_until: float | None
    erased: float | None
    segments_erased: int | None


class PresenceRow(NamedTuple):
    """Whether a device is there, and by which connection."""

    is_online: bool
    connection: str | None


class Desired(NamedTuple):
    """What one device shall run of one family."""

    device_id: str
    family: str
    path: str
    digest: str
    length: int
    rollout_id: str
    arm: str
    policy: Policy


class Devices:
    """Devices and all that is kept for each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, device_id: str) -> DeviceRow:
        """Return a device. Raises NotFound."""
        with self._database.reading() as connection:
            row = connection.execute(_devices().where(device.c.id == device_id)).first()
        if row is None:
            raise NotFound(f"there is no device {device_id!r:.80}")
        return DeviceRow._make(row)

    def exists(self, device_id: str) -> bool:
        """Whether a device of this name is enrolled."""
        with self._database.reading() as connection:
            found = connection.execute(select(device.c.id).where(device.c.id == device_id))
            return found.first() is not None

    def after(self, device_id: str, limit: int) -> list[DeviceRow]:
        """Return at most `limit` devices whose ids come after `device_id`, in order."""
        query = _devices().where(device.c.id > device_id).order_by(device.c.id).limit(limit)
        with self._database.reading() as connection:
            return [DeviceRow._make(row) for row in connection.execute(query)]

    def labels(self) -> list[tuple[str, Mapping[str, str]]]:
        """Return id and labels of every device with access that stays, in order of the ids."""
        query = (
            select(device.c.id, device.c.labels)
            .where(device.c.revoked.is_(None), device.c.retiring.is_(None))
            .order_by(device.c.id)
        )
        with self._database.reading() as connection:
            return [(row.id, row.labels) for row in connection.execute(query)]

    def inventories(self, names: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
        """Return id and the named facts of every device's inventory; others are not read."""
        facts = [device.c.inventory[name].label(name) for name in names]
        with self._database.reading() as connection:
            rows = connection.execute(select(device.c.id, *facts).order_by(device.c.id)).all()
        return [(row.id, row._asdict()) for row in rows]

    def set_labels(
        self, device_id: str, change: Mapping[str, str | None], now: float, by: str = SERVICE
    ) -> Mapping[str, str]:
        """Set labels, or remove those given as None; return all of them. Raises NotFound."""
        with self._database.transaction() as connection:
            known = connection.execute(
                select(device.c.labels).where(device.c.id == device_id)
            ).scalar_one_or_none()
            if known is None:
                raise NotFound(f"there is no device {device_id!r:.80}")
            merged = {k: v for k, v in {**known, **change}.items() if v is not None}
            connection.execute(update(device).where(device.c.id == device_id).values(labels=merged))
            subject = f"device/{device_id}"
            audit.append(connection, Statement(now, by, "device.labelled", subject, change))
        return merged

    def public_key_pem(self, device_id: str) -> bytes | None:
        """Return the key that a device's reports are signed with; None once it is revoked."""
        pem = self._one(device_id, device.c.public_key_pem)
        return None if pem is None else str(pem).encode()

    def telemetry_secret(self, device_id: str) -> bytes | None:
        """Return the secret of telemetry and acknowledgements; None once a device is revoked."""
        secret = self._one(device_id, device.c.telemetry_secret)
        return None if secret is None else bytes(secret)

    def _one(self, device_id: str, column: Any) -> Any:  # noqa: ANN401 a column's own type
        with self._database.reading() as connection:
            return connection.execute(
                select(column).where(device.c.id == device_id, device.c.revoked.is_(None))
            ).scalar_one_or_none()

    def presence(self, device_id: str) -> PresenceRow | None:
        """Return the presence of a device, or None if there is no such device, or it is revoked."""
        query = select(device.c.is_online, device.c.connection).where(
            device.c.id == device_id, device.c.revoked.is_(None)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else PresenceRow._make(row)

    def set_presence(self, device_id: str, row: PresenceRow, now: float) -> None:
        """Store the presence of a device."""
        values = {**row._asdict(), "last_seen": now}
        with self._database.transaction() as connection:
            connection.execute(update(device).where(device.c.id == device_id).values(values))

    def forget_presence(self) -> None:
        """Take every device for offline, as nobody was listening."""
        with self._database.transaction() as connection:
            connection.execute(update(device).values(is_online=False))

    def greeted(self, device_id: str, agent_version: str, now: float) -> bool:
        """Note that a device said hello; False if there is no such device, or it is revoked."""
        values = {"agent_version": agent_version, "last_seen": now, "is_online": True}
        with self._database.transaction() as connection:
            found = connection.execute(
                update(device)
                .where(device.c.id == device_id, device.c.revoked.is_(None))
                .values(values)
            )
        return found.rowcount > 0

    def online(self, device_ids: Sequence[str]) -> set[str]:
        """Return those of `device_ids` that are online."""
        found: set[str] = set()
        with self._database.reading() as connection:
            for part in _parts(device_ids):
                query = select(device.c.id).where(device.c.id.in_(part), device.c.is_online)
                found.update(connection.execute(query).scalars())
        return found

    def set_desired(self, rows: Sequence[Desired], now: float) -> dict[str, int]:
        """Change what devices shall run; return the new generation of each device.

        `rows` holds one family for each device.
        """
        with self._database.transaction() as connection:
            return change_desired(connection, rows, now)

    def orders(self, device_id: str) -> list[Order]:
        """Return what a device shall run, one order for each family."""
        query = select(desired).where(desired.c.device_id == device_id).order_by(desired.c.family)
        with self._database.reading() as connection:
            return [_order(row) for row in connection.execute(query)]

    def desired(self, device_id: str) -> list[Mapping[str, Any]]:
        """Return what is wanted of a device, as stored."""
        return self._rows(desired, device_id)

    def accept_report(self, report: Report, now: float) -> bool:
        """Store a checked report in one transaction; False if this or a later one was stored."""
        with self._database.transaction() as connection:
            if not _count_report(connection, report):
                return False
            values = {
                "inventory": dict(report.inventory),
                "agent_version": report.agent_version,
                "buffer": msgspec.to_builtins(report.buffer),
                "last_seen": now,
                "is_online": True,
            }
            connection.execute(update(device).where(device.c.id == report.device).values(values))
            for family in report.families:
                upsert(connection, reported, _reported(report.device, family, now))
            for found in report.detected:
                values = msgspec.to_builtins(found) | {"device_id": report.device}
                upsert(connection, detection, values)
        return True

    def reported(self, device_id: str) -> list[Mapping[str, Any]]:
        """Return what a device last reported, as stored."""
        return self._rows(reported, device_id)

    def serving(self, device_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return, by device and family, the version that each said it serves."""
        found: dict[str, dict[str, str]] = {}
        with self._database.reading() as connection:
            for part in _parts(device_ids):
                query = select(reported).where(
                    reported.c.device_id.in_(part), reported.c.serving_version.is_not(None)
                )
                for row in connection.execute(query):
                    found.setdefault(row.device_id, {})[row.family] = row.serving_version
        return found

    def detections(self, device_id: str) -> list[Mapping[str, Any]]:
        """Return what a device refused, as stored."""
        return self._rows(detection, device_id)

    def note_misconduct(
        self, device_id: str, code: str, message: str, count: int, now: float
    ) -> None:
        """Add to what others saw a device do that it may not, if there is such a device."""
        with self._database.transaction() as connection:
            if connection.execute(select(device.c.id).where(device.c.id == device_id)).first():
                key = (misconduct.c.device_id == device_id) & (misconduct.c.code == code)
                before = connection.execute(select(misconduct.c.count).where(key)).scalar()
                values = {"device_id": device_id, "code": code, "message": message}
                total = (before or 0) + count
                upsert(connection, misconduct, values | {"count": total, "last": now})

    def misconduct(self, device_id: str) -> list[Mapping[str, Any]]:
        """Return what others saw a device do that it may not, as stored."""
        return self._rows(misconduct, device_id)

    def _rows(self, table: Table, device_id: str) -> list[Mapping[str, Any]]:
        query = select(table).where(table.c.device_id == device_id)
        with self._database.reading() as connection:
            return [
                {str(key): value for key, value in row.items() if key != "device_id"}
                for row in connection.execute(query).mappings()
            ]


def change_desired(connection: Connection, rows: Sequence[Desired], now: float) -> dict[str, int]:
    """Change, in the caller's transaction, what devices shall run; return each one's generation.

    A generation is newer than the device's last and never below the time, so that it stays newer
    after a restore from a backup. `rows` holds one family for each device.
    """
    assert len({row.device_id for row in rows}) == len(rows)
    generations: dict[str, int] = {}
    for part in _parts(rows):
        previous = _generations(connection, part)
        for row in part:
            last = previous.get((row.device_id, row.family), 0)
            generations[row.device_id] = max(last + 1, int(now))
            values = row._asdict() | {
                "policy": msgspec.to_builtins(row.policy),
                "generation": generations[row.device_id],
                "changed": now,
            }
            upsert(connection, desired, values)
    return generations


def _devices() -> Any:  # noqa: ANN401 a statement of eight columns
    return select(*(device.c[name] for name in DeviceRow._fields))


def _generations(connection: Connection, rows: Sequence[Desired]) -> dict[tuple[str, str], int]:
    ids = [row.device_id for row in rows]
    own = connection.execute(select(desired).where(desired.c.device_id.in_(ids))).all()
    told = connection.execute(select(reported).where(reported.c.device_id.in_(ids))).all()
    found: dict[tuple[str, str], int] = {}
    # After a restore from a backup the device may know a newer generation than we do.
    for row in (*own, *told):
        key = (row.device_id, row.family)
        found[key] = max(found.get(key, 0), row.generation)
    return found


def _order(row: Any) -> Order:  # noqa: ANN401 a row of `desired`
    return Order(
        family=row.family,
        generation=row.generation,
        model=ModelReference(path=row.path, digest=row.digest, length=row.length),
        rollout=row.rollout_id,
        arm=Arm(row.arm),
        policy=msgspec.convert(row.policy, Policy),
    )


def _count_report(connection: Connection, report: Report) -> bool:
    """Note the counter of a report; False if a later one of its device was stored.

    An incarnation is over when the next one speaks: what it said is not believed any more, even if
    a broker kept it back until then.
    """
    columns = report_counter.c.incarnation, report_counter.c.counter, report_counter.c.turn
    own = select(*columns).where(report_counter.c.device_id == report.device)
    known = {row.incarnation: row for row in connection.execute(own)}
    newest = max((row.turn for row in known.values()), default=0)
    said = known.get(report.incarnation)
    if said is not None and (report.counter <= said.counter or said.turn < newest):
        return False
    values = {
        "device_id": report.device,
        "incarnation": report.incarnation,
        "counter": report.counter,
        "turn": newest + 1 if said is None else said.turn,
    }
    upsert(connection, report_counter, values)
    return True


def _reported(device_id: str, family: FamilyReport, now: float) -> dict[str, Any]:
    serving, fault, transfer = family.serving, family.fault, family.transfer
    return {
        "device_id": device_id,
        "family": family.family,
        "generation": family.generation,
        "state": family.state.value if family.state else None,
        "rollout_id": family.rollout,
        "serving_digest": serving.digest if serving else None,
        "serving_version": serving.version if serving else None,
        "runtime": serving.runtime if serving else None,
        "delegate": serving.delegate if serving else None,
        "since": serving.since if serving else None,
        "answered": serving.answered if serving else None,
        "fault_code": fault.code if fault else None,
        "fault_message": fault.message if fault else None,
        "waits_for": family.waits_for or None,
        "received": now,
        "chunk_bytes": transfer.chunk_bytes if transfer else None,
        "patch_bytes": transfer.patch_bytes if transfer else None,
        "saved_bytes": transfer.saved_bytes if transfer else None,
    }


def _parts(items: Sequence[ItemT]) -> Iterator[Sequence[ItemT]]:
    for start in range(0, len(items), _IDS_PER_STATEMENT):
        yield items[start : start + _IDS_PER_STATEMENT]
