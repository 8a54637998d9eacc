"""What may be a matter for somebody: devices that are silent, dropped, parked or refused something.

Reads only. Whether it is one, `alerts` decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from control_plane.alerts.decision import Kind
from control_plane.alerts.retraining import Labels
from control_plane.alerts.signals import Count, Silence
from control_plane.store.schema import detection, device, label_count, misconduct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection

    from control_plane.store.database import Database

# What devices say of their buffers: the name there, and what it counts.
_BUFFER: tuple[tuple[Kind, str, str], ...] = (
    (Kind.DROPPED, "rows_dropped", "rows"),
    (Kind.DROPPED, "windows_dropped", "windows"),
    (Kind.PARKED, "segments_parked", "segments"),
)


class Concerns:
    """Asks about devices that have access."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def silent(self, before: float) -> list[Silence]:
        """Return the devices that are not connected and were last heard before then."""
        statement = (
            select(device.c.id, device.c.last_seen)
            .where(*_has_access(), ~device.c.is_online, device.c.last_seen <= before)
            .order_by(device.c.id)
        )
        with self._database.reading() as connection:
            return [Silence._make(row) for row in connection.execute(statement)]

    def counts(self) -> list[Count]:
        """Return what devices dropped, parked, refused, or were seen to do that they may not."""
        with self._database.reading() as connection:
            return [*_buffers(connection), *_refused(connection)]

    def labels_since(
        self, family: str, model: str, device_ids: Sequence[str], since: float
    ) -> Labels:
        """Return the labels that came since then for a model's predictions on these devices."""
        statement = (
            select(
                label_count.c.device_id,
                func.sum(label_count.c.labelled),
                func.sum(label_count.c.wrong),
            )
            .where(
                label_count.c.model == model,
                label_count.c.family == family,
                label_count.c.received >= since,
            )
            .group_by(label_count.c.device_id)
        )
        wanted = frozenset(device_ids)
        with self._database.reading() as connection:
            rows = [row for row in connection.execute(statement) if row[0] in wanted]
        return Labels(sum(int(row[1]) for row in rows), sum(int(row[2]) for row in rows))


def _has_access() -> tuple[ColumnElement[bool], ...]:
    return device.c.revoked.is_(None), device.c.retiring.is_(None), device.c.retired.is_(None)


def _buffers(connection: Connection) -> list[Count]:
    found = []
    for kind, name, what in _BUFFER:
        value = device.c.buffer[name].as_integer()
        statement = select(device.c.id, value).where(*_has_access(), value > 0)
        found += [Count(kind, row[0], row[1], what) for row in connection.execute(statement)]
    return found


def _refused(connection: Connection) -> list[Count]:
    found = []
    for table, condition in ((detection, detection.c.code.like("trust.%")), (misconduct, None)):
        columns = table.c.device_id, table.c.count, table.c.code, table.c.message
        statement = select(*columns).join(device, device.c.id == table.c.device_id)
        statement = statement.where(*_has_access())
        if condition is not None:
            statement = statement.where(condition)
        rows = connection.execute(statement.order_by(table.c.device_id, table.c.code))
        found += [Count(Kind.REFUSED, *row) for row in rows]
    return found
