"""Watches over devices as stored: windows that wait, what is known, and what was last said.

A window is marked in the transaction that stores what it led to, so that each is taken in once.
What a watch means, and how a window is taken in, is `telemetry.standing`'s affair.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, case, func, insert, or_, select, text, update

from control_plane.store import audit
from control_plane.store.schema import device, release, segment
from control_plane.store.watch_schema import watch
from control_plane.telemetry.standing import Standing, WatchKey, WatchRow
from firmware_bundles.sketches.watch import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection

    from control_plane.audit import Statement
    from control_plane.store.database import Database

# Word for word as the index has it: with a parameter in it the index would not be used.
_WAITS: Final = text("segment.kind = 'window' and segment.watched = 0")
_KEY: Final = ("device_id", "family", "model")
_SAID: Final = tuple(watch.c[name] for name in Standing._fields)


class WaitingWindow(NamedTuple):
    """A stored window that no watch took in yet; `ended` is never later than its arrival."""

    incarnation: str
    first: int
    started: float
    ended: float
    body: bytes


class Kept(NamedTuple):
    """What is stored of a watch; `turn` tells whether somebody else changed it since."""

    turn: int = 0
    body: bytes | None = None
    standing: Standing = Standing()


class Promise(NamedTuple):
    """How many rows of a window have a confidence, and how many of them it promises to be right."""

    rows: int
    right: float


class Taken(NamedTuple):
    """What taking in `windows` led to, from the state that `turn` names.

    `promises` are those of the windows, None of one that tells nothing.
    """

    key: WatchKey
    turn: int
    body: bytes | None
    standing: Standing
    windows: Sequence[WaitingWindow]
    promises: Sequence[Promise | None] = ()


class Watches:
    """Reads and writes watches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting(self, settled_before: float, overdue_before: float, limit: int) -> list[WatchKey]:
        """Return at most `limit` watches that have windows to take in.

        Those for which nothing came since `settled_before`: of a backlog the newest window comes
        first. And those of which one has been waiting since `overdue_before`.
        """
        places = [segment.c[name] for name in _KEY]
        came = segment.c.received
        statement = (
            select(*places)
            .where(_WAITS)
            .group_by(*places)
            .having(or_(func.max(came) <= settled_before, func.min(came) <= overdue_before))
            .order_by(*places)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [WatchKey._make(row) for row in connection.execute(statement)]

    def windows(self, key: WatchKey, arrived_before: float, limit: int) -> list[WaitingWindow]:
        """Return the oldest windows that wait, in order of their time."""
        started, ended = (_not_after_arrival(segment.c[name]) for name in ("started", "ended"))
        names = segment.c.incarnation, segment.c.first
        statement = (
            select(*names, started.label("started"), ended.label("ended"), segment.c.body)
            .where(_WAITS, segment.c.received <= arrived_before, *_is(key))
            .order_by(ended, *names)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [WaitingWindow._make(row) for row in connection.execute(statement)]

    def load(self, key: WatchKey) -> Kept:
        """Return what is stored; the beginning if nothing is."""
        statement = select(watch.c.turn, watch.c.body, *_SAID).where(*_at(key))
        with self._database.reading() as connection:
            row = connection.execute(statement).first()
        return Kept() if row is None else Kept(row.turn, row.body, _standing(row))

    def save(self, taken: Sequence[Taken], told: Statement | None = None) -> int:
        """Store results and mark their windows, all in one transaction; return how many it took.

        One that somebody else changed in the meantime is left as it is, with its windows waiting.
        What a person did is `told` to the audit log.
        """
        with self._database.transaction() as connection:
            saved = sum(_save(connection, each) for each in taken)
            if told is not None:
                audit.append(connection, told)
            return saved

    def rows(
        self, family: str | None = None, device_ids: Sequence[str] | None = None
    ) -> list[WatchRow]:
        """Return how devices with access stand, by device and family; None means all."""
        statement = (
            select(*(watch.c[name] for name in _KEY), release.c.version, *_SAID)
            .join(device, device.c.id == watch.c.device_id)
            .outerjoin(release, release.c.digest == watch.c.model)
            .where(device.c.revoked.is_(None), device.c.retiring.is_(None))
            .order_by(*(watch.c[name] for name in _KEY))
        )
        if family is not None:
            statement = statement.where(watch.c.family == family)
        # Membership is tested here: a cohort may have more devices than a statement takes.
        wanted = None if device_ids is None else frozenset(device_ids)
        with self._database.reading() as connection:
            return [
                WatchRow(WatchKey._make(row[:3]), row.version, _standing(row))
                for row in connection.execute(statement)
                if wanted is None or row.device_id in wanted
            ]

    def changed_since(self, family: str, model: str, since: float) -> dict[str, bool]:
        """Return, for each device with a reference for this model, whether it rang since then.

        Devices that are still commissioned are left out: of them nothing can be said.
        """
        is_changed = and_(watch.c.changed.is_not(None), watch.c.changed >= since)
        statement = select(watch.c.device_id, is_changed.label("is_changed")).where(
            watch.c.family == family,
            watch.c.model == model,
            or_(watch.c.tested > 0, watch.c.state != State.COMMISSIONING.value),
        )
        with self._database.reading() as connection:
            return {row.device_id: bool(row.is_changed) for row in connection.execute(statement)}


def _not_after_arrival(time: ColumnElement[float]) -> ColumnElement[float]:
    """A device's clock may be ahead; what it sent happened before it came."""
    return case((time < segment.c.received, time), else_=segment.c.received)


def _is(key: WatchKey) -> list[Any]:
    return [segment.c[name] == value for name, value in key._asdict().items()]


def _at(key: WatchKey) -> list[Any]:
    return [watch.c[name] == value for name, value in key._asdict().items()]


def _standing(row: Any) -> Standing:  # noqa: ANN401 a row of `watch`
    return msgspec.convert([getattr(row, name) for name in Standing._fields], Standing)


def _save(connection: Connection, taken: Taken) -> bool:
    values = msgspec.to_builtins(taken.standing._asdict()) | {"body": taken.body}
    if taken.turn:
        statement = update(watch).where(*_at(taken.key), watch.c.turn == taken.turn)
        is_ours = connection.execute(statement.values(turn=taken.turn + 1, **values)).rowcount == 1
    else:
        known = connection.execute(select(watch.c.turn).where(*_at(taken.key))).first()
        is_ours = known is None
        if is_ours:
            connection.execute(insert(watch).values(turn=1, **taken.key._asdict(), **values))
    if is_ours and taken.windows:
        told = zip_longest(taken.windows, taken.promises)
        connection.execute(_MARK, [_named(taken.key.device_id, *each) for each in told])
    return is_ours


_MARK: Final = (
    update(segment)
    .where(
        segment.c.device_id == bindparam("of_device"),
        segment.c.incarnation == bindparam("of_incarnation"),
        segment.c.kind == "window",
        segment.c.first == bindparam("from_first"),
    )
    .values(
        watched=1,
        promised_rows=bindparam("of_rows"),
        promised_right=bindparam("of_right"),
    )
)


def _named(device_id: str, window: WaitingWindow, promise: Promise | None) -> dict[str, Any]:
    return {
        "of_device": device_id,
        "of_incarnation": window.incarnation,
        "from_first": window.first,
        "of_rows": None if promise is None else promise.rows,
        "of_right": None if promise is None else promise.right,
    }
