"""Rows of retirements: devices that are to erase what they hold before their access ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, select, update

from control_plane.audit import SERVICE, Statement
from control_plane.store import audit
from control_plane.store.schema import desired, device
from firmware_bundles.errors import NotFound

if TYPE_CHECKING:
    from control_plane.store.database import Database
    from firmware_bundles.wire.messages import Erased


class RetirementRow(NamedTuple):
    """A retirement under way; `erased` is when the device said, signed, that nothing is left."""

    device_id: str
    generation: int
    until: float
    erased: float | None


_COLUMNS = (
    device.c.id.label("device_id"),
    device.c.retire_generation,
    device.c.retire_until,
    device.c.erased,
)
# Who lost its access is not retired any further.
_IS_OPEN = device.c.retiring.is_not(None) & device.c.revoked.is_(None)


class RetirementRows:
    """Retirements under way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, device_id: str, now: float, until: float, by: str = SERVICE) -> bool:
        """Note that a device shall erase what it holds; nothing else is wanted of it any more.

        A retirement under way goes on, with the new end. False if the device has no access any
        more. The generation is never below the time, so that it stays newer after a restore from
        a backup. Raises NotFound.
        """
        own = device.c.id == device_id
        query = select(device.c.retire_generation, device.c.retiring, device.c.revoked).where(own)
        with self._database.transaction() as connection:
            known = connection.execute(query).first()
            if known is None:
                raise NotFound(f"there is no device {device_id!r:.80}")
            if known.revoked is not None:
                return False
            values: dict[str, object] = {"retire_until": until}
            if known.retiring is None:
                generation = max(known.retire_generation + 1, int(now))
                values |= {"retiring": now, "retire_generation": generation, "erased": None}
            connection.execute(update(device).where(own).values(values))
            connection.execute(delete(desired).where(desired.c.device_id == device_id))
            told = Statement(now, by, "device.retiring", f"device/{device_id}", {"until": until})
            audit.append(connection, told)
        return True

    def find(self, device_id: str) -> RetirementRow | None:
        """Return the retirement of a device, if one is under way."""
        with self._database.reading() as connection:
            row = connection.execute(
                select(*_COLUMNS).where(_IS_OPEN, device.c.id == device_id)
            ).first()
        return None if row is None else RetirementRow._make(row)

    def confirm(self, device_id: str, erased: Erased, now: float) -> bool:
        """Note what a device says it erased; False unless it is news of its own retirement."""
        with self._database.transaction() as connection:
            found = connection.execute(
                update(device)
                .where(_IS_OPEN, device.c.id == device_id, device.c.erased.is_(None))
                .where(device.c.retire_generation == erased.generation)
                .values(erased=now, segments_erased=erased.segments)
            )
            if found.rowcount:
                actor, told = f"device:{device_id}", {"segments": erased.segments}
                subject = f"device/{device_id}"
                audit.append(connection, Statement(now, actor, "device.erased", subject, told))
        return found.rowcount > 0

    def ending(self, erased_before: float, now: float) -> list[RetirementRow]:
        """Return those that confirmed before `erased_before`, or had until now to do so."""
        is_due = (device.c.erased <= erased_before) | (device.c.retire_until <= now)
        with self._database.reading() as connection:
            rows = connection.execute(select(*_COLUMNS).where(_IS_OPEN, is_due)).all()
        return [RetirementRow._make(row) for row in rows]
