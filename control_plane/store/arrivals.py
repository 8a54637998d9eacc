"""A batch of segments into their table by few statements, and which of them were there before."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.store import many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from control_plane.store.many import Values
    from firmware_bundles.wire.messages import Segment, Totals

_SEGMENT: Final = (
    "device_id", "incarnation", "kind", "first", "last", "family", "model", "rows", "started",
    "ended", "received", "body", "answered", "latency_us", "log_latency", "log_latency2",
    "is_tallied", "latency_bins",
)  # fmt: skip
_ADD: Final = f"insert into segment ({', '.join(_SEGMENT)}) values {{rows}}"  # noqa: S608 constants
# The segments of one model do not overlap; those of two models may interleave.
_KNOWN: Final = """
    with arriving (number, device_id, incarnation, kind, first, last, model, rows) as
        (values {rows})
    select arriving.number, exists (
        select 1 from segment as same
        where same.device_id = arriving.device_id and same.incarnation = arriving.incarnation
            and same.kind = arriving.kind and same.first = arriving.first
            and same.last = arriving.last and same.model = arriving.model
            and same.rows = arriving.rows)
        or exists (
        select 1 from segment_past as past
        where past.device_id = arriving.device_id and past.incarnation = arriving.incarnation
            and past.kind = arriving.kind and past.model = arriving.model
            and past.first <= arriving.first and past.last >= arriving.last)
    from arriving
    where coalesce((
        select earlier.last from segment as earlier
        where earlier.device_id = arriving.device_id
            and earlier.incarnation = arriving.incarnation and earlier.kind = arriving.kind
            and earlier.first <= arriving.last and earlier.model = arriving.model
        order by earlier.first desc limit 1), 0) >= arriving.first
    or exists (
        select 1 from segment as same
        where same.device_id = arriving.device_id and same.incarnation = arriving.incarnation
            and same.kind = arriving.kind and same.first = arriving.first)
    or coalesce((
        select past.last from segment_past as past
        where past.device_id = arriving.device_id and past.incarnation = arriving.incarnation
            and past.kind = arriving.kind and past.first <= arriving.last
            and past.model = arriving.model
        order by past.first desc limit 1), 0) >= arriving.first
"""
_COUNT: Final = """
    insert into prediction_count (device_id, family, model, received, segments, latest)
    values {rows}
    on conflict (device_id, family, model) do update set
        received = prediction_count.received + excluded.received,
        segments = prediction_count.segments + excluded.segments,
        latest = excluded.latest
"""
_NO_WORK: Final = (None,) * 4


class Stored(Enum):
    """What became of a segment."""

    NEW = auto()
    DUPLICATE = auto()
    OVERLAPPING = auto()


class Sent(NamedTuple):
    """A segment, the device that sent it, and what its predictions add up to.

    `latency_bins` is the histogram of `telemetry.latency_bins`.
    """

    device_id: str
    sealed: Segment
    work: Totals | None = None
    latency_bins: bytes | None = None


class Count(NamedTuple):
    """Predictions of one model that came from one device, in so many segments."""

    device_id: str
    family: str
    model: str
    received: int
    segments: int
    latest: float


def store(connection: Connection, sent: Sequence[Sent], received: float) -> list[Stored]:
    """Store each segment unless it, or one that overlaps it, is there; say which, in order.

    Those of one batch that exclude each other are taken one after another, the earlier one first.
    """
    answers: dict[int, Stored] = {}
    waiting = list(enumerate(sent))
    while waiting:
        now, waiting = _apart(waiting)
        answers |= _store_apart(connection, now, received)
    return [answers[number] for number in range(len(sent))]


def count(connection: Connection, counts: Sequence[Count]) -> None:
    """Add to what was received; no two counts are of the same device and model."""
    many.run(connection, _COUNT, counts)


def _store_apart(
    connection: Connection, sent: Sequence[tuple[int, Sent]], received: float
) -> dict[int, Stored]:
    """Store segments of which no two exclude each other."""
    known: dict[int, Stored] = {}
    places = [_place(number, each) for number, each in sent]
    for number, is_same in many.run(connection, _KNOWN, places):
        known[number] = Stored.DUPLICATE if is_same else Stored.OVERLAPPING
    new = [_row(each, received) for number, each in sent if number not in known]
    many.run(connection, _ADD, new)
    return {number: known.get(number, Stored.NEW) for number, _ in sent}


def _apart(
    sent: Sequence[tuple[int, Sent]],
) -> tuple[list[tuple[int, Sent]], list[tuple[int, Sent]]]:
    """Part those that exclude none before them from the others."""
    taken: dict[tuple[str, str, str], list[tuple[int, int, str]]] = {}
    now: list[tuple[int, Sent]] = []
    later: list[tuple[int, Sent]] = []
    for number, each in sent:
        key, model = each.sealed.key, each.sealed.model
        others = taken.setdefault((each.device_id, key.incarnation, key.kind), [])
        is_excluded = any(
            first == key.first or (model == of and first <= key.last and key.first <= last)
            for first, last, of in others
        )
        if is_excluded:
            later.append((number, each))
        else:
            others.append((key.first, key.last, model))
            now.append((number, each))
    return now, later


def _place(number: int, sent: Sent) -> Values:
    device_id, sealed, *_ = sent
    key = sealed.key
    return (
        number,
        *(device_id, key.incarnation, key.kind.value, key.first, key.last),
        *(sealed.model, sealed.rows),
    )


def _row(sent: Sent, received: float) -> Values:
    device_id, sealed, work, latency_bins = sent
    key = sealed.key
    return (
        *(device_id, key.incarnation, key.kind.value, key.first, key.last),
        *(sealed.family, sealed.model, sealed.rows, sealed.started, sealed.ended),
        *(received, sealed.body),
        *(_NO_WORK if work is None else _sums(work)),
        True,
        latency_bins,
    )


def _sums(work: Totals) -> Values:
    return work.answered, work.latency_us, work.log_latency, work.log_latency2
