"""Shadow segments with what belongs to them: live predictions and labels of the same inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from control_plane.store.schema import segment
from firmware_bundles.wire.messages import SegmentKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Row

    from control_plane.store.database import Database


class Mirrored(NamedTuple):
    """One shadow segment, the live segments (model, body) that it may pair with, and labels."""

    device_id: str
    incarnation: str
    shadow: str
    body: bytes
    live: list[tuple[str, bytes]]
    labels: list[bytes]


class Shadows:
    """What devices compared."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def mirrored(self, family: str, since: float) -> Iterator[Mirrored]:
        """Yield the shadow segments of a family that came since then, oldest first."""
        shadows = (
            select(segment)
            .where(
                segment.c.kind == SegmentKind.SHADOW.value,
                segment.c.family == family,
                segment.c.received >= since,
            )
            .order_by(segment.c.received, segment.c.device_id, segment.c.first)
        )
        with self._database.reading() as connection:
            for row in connection.execute(shadows):
                live = [
                    (each.model, bytes(each.body))
                    for each in _beside(connection, row, SegmentKind.PREDICTIONS)
                ]
                told = [bytes(e.body) for e in _beside(connection, row, SegmentKind.LABELS)]
                yield Mirrored(
                    row.device_id, row.incarnation, row.model, bytes(row.body), live, told
                )


def _beside(
    connection: Connection, shadow: Row[tuple[object, ...]], kind: SegmentKind
) -> list[Row[tuple[object, ...]]]:
    """Return the device's segments of another kind that may name the same predictions."""
    statement = select(segment).where(
        segment.c.device_id == shadow.device_id,
        segment.c.family == shadow.family,
        segment.c.kind == kind.value,
    )
    if kind is SegmentKind.PREDICTIONS:
        statement = statement.where(
            segment.c.incarnation == shadow.incarnation,
            segment.c.first <= shadow.last,
            segment.c.last >= shadow.first,
        )
    else:
        statement = statement.where(segment.c.ended >= shadow.started)
    return list(connection.execute(statement))
