"""Rows of pairs: what lies beside a shadow's answers, and what was counted of them.

How pairs are counted stands in `telemetry.pairing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, insert, select, text

from control_plane.store.schema import pair_count, segment
from control_plane.telemetry.ranges import holds
from firmware_bundles.wire.columns import Labels, decode_labels
from firmware_bundles.wire.messages import SegmentKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, TextClause

    from control_plane.store.arrivals import Sent
    from control_plane.telemetry.pairing import Paired
    from firmware_bundles.wire.messages import Segment

    Key = tuple[str, str, str, int]

# Word for word as the index has it: with a parameter in it the index would not be used.
_MIRRORED: Final = """
    select distinct device_id, incarnation from {segment}
    where kind = 'shadow' and device_id in :devices
"""
_IS_SHADOW: Final = text("segment.kind = 'shadow'")
_DEVICES_MAX: Final = 500


class Beside(NamedTuple):
    """A stored segment that may hold answers to the same inputs."""

    model: str
    body: bytes


class PairIntake:
    """The pairs of one transaction that stores segments.

    All of a batch is stored before any of it is counted, so what was not counted yet is not there.
    """

    def __init__(self, connection: Connection, received: float) -> None:
        self._connection = connection
        self._received = received
        self._uncounted: set[Key] = set()
        self._counted: dict[tuple[Key, str, str], tuple[str, Paired]] = {}
        self._mirrored: set[tuple[str, str]] = set()

    def begin(self, sent: Sequence[Sent]) -> None:
        """Note a batch before it is counted, and which of its devices have a shadow."""
        self._uncounted |= {_key(each.device_id, each.sealed) for each in sent}
        devices = sorted({each.device_id for each in sent})
        query = _mirrored(self._connection)
        for start in range(0, len(devices), _DEVICES_MAX):
            some = {"devices": devices[start : start + _DEVICES_MAX]}
            found = self._connection.execute(query, some)
            self._mirrored.update((row.device_id, row.incarnation) for row in found)

    def reach(self, device_id: str, sealed: Segment) -> None:
        """Say that a segment is counted now."""
        self._uncounted.discard(_key(device_id, sealed))

    def live(self, device_id: str, shadow: Segment) -> Iterator[Beside]:
        """Yield the live predictions that may be of the same inputs as a shadow's segment."""
        incarnation, first, last = shadow.key.incarnation, shadow.key.first, shadow.key.last
        return self._at(SegmentKind.PREDICTIONS, device_id, incarnation, first, last)

    def shadows(self, device_id: str, incarnation: str, live: Segment) -> Iterator[Beside]:
        """Yield the shadows' answers that may be to the same inputs as live predictions."""
        if (device_id, incarnation) in self._mirrored:
            first, last = live.key.first, live.key.last
            yield from self._at(SegmentKind.SHADOW, device_id, incarnation, first, last)

    def shadows_at(
        self, device_id: str, incarnation: str, numbers: Iterable[int]
    ) -> Iterator[Beside]:
        """Yield the shadows' answers that may be to these inputs; what is between is not read."""
        if (device_id, incarnation) not in self._mirrored:
            return
        own, wanted = segment.c, sorted(numbers)
        of = own.device_id == device_id, own.incarnation == incarnation
        within = select(own.first, own.last).where(
            _IS_SHADOW, *of, own.first <= wanted[-1], own.last >= wanted[0]
        )
        for first, last in self._connection.execute(within.order_by(own.received, own.first)).all():
            if holds(first, last, wanted):
                yield from self._stored(SegmentKind.SHADOW, device_id, of[1], own.first == first)

    def labels(self, device_id: str, shadow: Segment) -> Iterator[tuple[str, Labels]]:
        """Yield model and rows of the labels that may be of the inputs of a shadow's segment."""
        about = segment.c.family == shadow.family, segment.c.ended >= shadow.started
        for beside in self._stored(SegmentKind.LABELS, device_id, *about):
            yield beside.model, decode_labels(beside.body)

    def add(self, device_id: str, by: Segment, live: str, shadow: str, found: Paired) -> None:
        """Count pairs that the arrival of the segment `by` completed; written by `finish`."""
        if any(found):
            place = _key(device_id, by), live, shadow
            _, known = self._counted.get(place, ("", None))
            self._counted[place] = by.family, found if known is None else known.plus(found)

    def finish(self) -> None:
        """Write what was counted."""
        names = ("device_id", "incarnation", "kind", "first")
        rows = [
            dict(zip(names, key, strict=True))
            | {"live": live, "shadow": shadow, "family": family, "received": self._received}
            | found._asdict()
            for (key, live, shadow), (family, found) in self._counted.items()
        ]
        if rows:
            self._connection.execute(insert(pair_count), rows)

    def _at(
        self, kind: SegmentKind, device_id: str, incarnation: str, first: int, last: int
    ) -> Iterator[Beside]:
        about = (
            segment.c.incarnation == incarnation,
            segment.c.first <= last,
            segment.c.last >= first,
        )
        return self._stored(kind, device_id, *about)

    def _stored(
        self, kind: SegmentKind, device_id: str, *about: ColumnElement[bool]
    ) -> Iterator[Beside]:
        columns = (segment.c[name] for name in ("incarnation", "first", "model", "body"))
        query = (
            select(*columns)
            .where(segment.c.device_id == device_id, segment.c.kind == kind.value, *about)
            .order_by(segment.c.received, segment.c.first)
        )
        for row in self._connection.execute(query).all():
            if (device_id, row.incarnation, kind.value, row.first) not in self._uncounted:
                yield Beside(row.model, bytes(row.body))


def _mirrored(connection: Connection) -> TextClause:
    """Ask which devices have a shadow's answers, by the index that holds nothing else.

    SQLite would look at all segments of a device, for the primary key begins with it.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    source = "segment indexed by ix_segment_shadow" if is_sqlite else "segment"
    query = text(_MIRRORED.format(segment=source))
    return query.bindparams(bindparam("devices", expanding=True))


def _key(device_id: str, sealed: Segment) -> Any:  # noqa: ANN401 - a Key
    return device_id, sealed.key.incarnation, sealed.key.kind.value, sealed.key.first
