"""Rows of devices: identity, presence, what is wanted of each and what each reported.

How reports are checked stands in `fleet.reports`, what presence means in `fleet.presence`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
from sqlalchemy import String, and_, cast, func, select, update

from control_plane.audit import SERVICE, Statement
from control_plane.store import audit, many, report_rows, selection
from control_plane.store.schema import (
    desired,
    detection,
    device,
    misconduct,
    reported,
)
from firmware_bundles.errors import NotFound
from firmware_bundles.wire.messages import Arm, ModelReference, Order, Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Table

    from control_plane.fleet.selectors import Selector
    from control_plane.store.database import Database
    from firmware_bundles.wire.messages import Report

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


class KindRow(NamedTuple):
    """Devices of which some facts of the inventory are the same, and the first of them."""

    facts: Mapping[str, Any]
    devices: int
    example: str

    def joined(self, other: KindRow | None) -> KindRow:
        """Return both as one."""
        if other is None:
            return self
        return self._replace(
            devices=self.devices + other.devices, example=min(self.example, other.example)
        )


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

    def after(self, device_id: str, limit: int, selector: Selector) -> list[DeviceRow]:
        """Return at most `limit` selected devices whose ids come after `device_id`, in order.

        Devices without access are among them.
        """
        query = _devices().where(device.c.id > device_id, selection.all_hold(selector))
        query = query.order_by(device.c.id).limit(limit)
        with self._database.reading() as connection:
            return [DeviceRow._make(row) for row in connection.execute(query)]

    def members(self, selector: Selector, limit: int | None = None) -> list[str]:
        """Return the devices with access that stay and are selected, in order of the ids."""
        query = select(device.c.id).where(selection.chosen(selector)).order_by(device.c.id)
        query = query.limit(limit)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def count(self, selector: Selector) -> int:
        """Count the same devices."""
        query = select(func.count()).select_from(device).where(selection.chosen(selector))
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def count_serving(self, selector: Selector, family: str) -> int:
        """Count those of them that last said that they serve a model of a family."""
        said = reported.c.device_id == device.c.id, reported.c.family == family
        query = (
            select(func.count())
            .select_from(device)
            .join(reported, and_(*said, reported.c.serving_digest.is_not(None)))
            .where(selection.chosen(selector))
        )
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def kinds(self, selector: Selector, facts: Sequence[str]) -> list[KindRow]:
        """Return the same devices by what the named facts of their inventories say."""
        as_text = cast(device.c.inventory, String)  # PostgreSQL does not group by JSON itself
        inventories = (
            select(
                as_text.label("inventory"),
                func.count().label("devices"),
                func.min(device.c.id).label("example"),
            )
            .where(selection.chosen(selector))
            .group_by(as_text)
        )
        found: dict[tuple[Any, ...], KindRow] = {}
        with self._database.reading() as connection:
            for row in connection.execute(inventories):
                inventory = msgspec.json.decode(row.inventory, type=dict[str, Any])
                said = {name: inventory.get(name) for name in facts}
                kind = KindRow(said, row.devices, row.example)
                found[tuple(said.values())] = kind.joined(found.get(tuple(said.values())))
        return list(found.values())

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

    def public_keys_pem(self, device_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the keys that devices' reports are signed with; none of those revoked."""
        found: dict[str, bytes] = {}
        with self._database.reading() as connection:
            for part in _parts(sorted(device_ids)):
                query = select(device.c.id, device.c.public_key_pem).where(
                    device.c.id.in_(part), device.c.revoked.is_(None)
                )
                found |= {row.id: row.public_key_pem.encode() for row in connection.execute(query)}
        return found

    def telemetry_secret(self, device_id: str) -> bytes | None:
        """Return the secret of telemetry and acknowledgements; None once a device is revoked."""
        secret = self._one(device_id, device.c.telemetry_secret)
        return None if secret is None else bytes(secret)

    def _one(self, device_id: str, column: Any) -> Any:  # noqa: ANN401 a column's own type
        with self._database.reading() as connection:
            return connection.execute(
                select(column).where(device.c.id == device_id, device.c.revoked.is_(None))
            ).scalar_one_or_none()

    def presences(self, device_ids: Iterable[str]) -> dict[str, PresenceRow]:
        """Return the presence of those devices that are there, and not revoked."""
        found: dict[str, PresenceRow] = {}
        with self._database.reading() as connection:
            for part in _parts(sorted(device_ids)):
                query = select(device.c.id, device.c.is_online, device.c.connection).where(
                    device.c.id.in_(part), device.c.revoked.is_(None)
                )
                for device_id, *row in connection.execute(query):
                    found[device_id] = PresenceRow._make(row)
        return found

    def set_presences(self, rows: Mapping[str, PresenceRow], now: float) -> None:
        """Store the presence of devices."""
        values = [
            {"id": device_id, **row._asdict(), "last_seen": now} for device_id, row in rows.items()
        ]
        with self._database.transaction() as connection:
            many.update(connection, device, values)

    def forget_presence(self) -> None:
        """Take every device for offline, as nobody was listening."""
        with self._database.transaction() as connection:
            connection.execute(update(device).values(is_online=False))

    def greeted(self, versions: Mapping[str, str], now: float) -> frozenset[str]:
        """Note that devices, each of an agent's version, said hello.

        Returns those that are enrolled and not revoked.
        """
        with self._database.transaction() as connection:
            known: set[str] = set()
            for part in _parts(sorted(versions)):
                query = select(device.c.id).where(device.c.id.in_(part), device.c.revoked.is_(None))
                known.update(connection.execute(query).scalars())
            said = {"last_seen": now, "is_online": True}
            many.update(
                connection,
                device,
                [{"id": each, "agent_version": versions[each]} | said for each in sorted(known)],
            )
        return frozenset(known)

    def online(self, device_ids: Sequence[str]) -> set[str]:
        """Return those of `device_ids` that are online."""
        found: set[str] = set()
        with self._database.reading() as connection:
            for part in _parts(device_ids):
                query = select(device.c.id).where(device.c.id.in_(part), device.c.is_online)
                found.update(connection.execute(query).scalars())
        return found

    def orders(self, device_id: str) -> list[Order]:
        """Return what a device shall run, one order for each family."""
        return self.orders_of([device_id]).get(device_id, [])

    def orders_of(self, device_ids: Iterable[str]) -> dict[str, list[Order]]:
        """Return the same of many devices; those that shall run nothing are left out."""
        found: dict[str, list[Order]] = {}
        with self._database.reading() as connection:
            for part in _parts(sorted(device_ids)):
                query = select(desired).where(desired.c.device_id.in_(part))
                for row in connection.execute(query.order_by(desired.c.family)):
                    found.setdefault(row.device_id, []).append(_order(row))
        return found

    def desired(self, device_id: str) -> list[Mapping[str, Any]]:
        """Return what is wanted of a device, as stored."""
        return self._rows(desired, device_id)

    def accept_reports(self, reports: Sequence[Report], now: float) -> list[bool]:
        """Store checked reports, in order, in one transaction.

        False for each of which this or a later one was stored.
        """
        with self._database.transaction() as connection:
            return report_rows.accept(connection, reports, now)

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
                row = values | {"count": total, "last": now}
                many.upsert(connection, misconduct, [row])

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


def store_desired(
    connection: Connection, rows: Sequence[Desired], generations: Mapping[str, int], now: float
) -> None:
    """Store, in the caller's transaction, what devices shall run, under generations of theirs."""
    values = [
        row._asdict()
        | {
            "policy": msgspec.to_builtins(row.policy),
            "generation": generations[row.device_id],
            "changed": now,
        }
        for row in rows
    ]
    many.upsert(connection, desired, values)


def _devices() -> Any:  # noqa: ANN401 a statement of eight columns
    return select(*(device.c[name] for name in DeviceRow._fields))


def _order(row: Any) -> Order:  # noqa: ANN401 a row of `desired`
    return Order(
        family=row.family,
        generation=row.generation,
        model=ModelReference(path=row.path, digest=row.digest, length=row.length),
        rollout=row.rollout_id,
        arm=Arm(row.arm),
        policy=msgspec.convert(row.policy, Policy),
    )


def _parts(items: Sequence[ItemT]) -> Iterator[Sequence[ItemT]]:
    for start in range(0, len(items), _IDS_PER_STATEMENT):
        yield items[start : start + _IDS_PER_STATEMENT]
