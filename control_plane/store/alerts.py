"""Alerts as stored, with the events that tell of them: both change in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy import delete, func, insert, select, update

from control_plane.alerts import events
from control_plane.alerts.decision import Action, Alert, State
from control_plane.audit import SERVICE, Statement
from control_plane.store import audit
from control_plane.store.outbox import enqueue
from control_plane.store.watch_schema import alert

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from control_plane.alerts.decision import Kind, Step
    from control_plane.store.database import Database

ROWS_MAX: Final = 1_000
_FIELDS: Final = tuple(alert.c[name] for name in Alert._fields)


class Counts(NamedTuple):
    """How many alerts are not over."""

    open: int
    acknowledged: int


class Alerts:
    """Reads and writes alerts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(self) -> dict[str, Alert]:
        """Return the newest alert of every key."""
        newest = select(func.max(alert.c.number)).group_by(alert.c.key)
        statement = select(*_FIELDS).where(alert.c.number.in_(newest))
        with self._database.reading() as connection:
            return {row.key: _loaded(row) for row in connection.execute(statement)}

    def find(self, number: int) -> Alert | None:
        """Return an alert, None if there is none of this number."""
        with self._database.reading() as connection:
            row = connection.execute(select(*_FIELDS).where(alert.c.number == number)).first()
        return None if row is None else _loaded(row)

    def find_all(
        self,
        states: Sequence[State],
        kind: Kind | None = None,
        device_id: str | None = None,
        limit: int = ROWS_MAX,
    ) -> list[Alert]:
        """Return alerts in these states, the newest first."""
        statement = select(*_FIELDS).where(alert.c.state.in_([each.value for each in states]))
        if kind is not None:
            statement = statement.where(alert.c.kind == kind.value)
        if device_id is not None:
            statement = statement.where(alert.c.device_id == device_id)
        statement = statement.order_by(alert.c.number.desc()).limit(min(limit, ROWS_MAX))
        with self._database.reading() as connection:
            return [_loaded(row) for row in connection.execute(statement)]

    def counts(self) -> Counts:
        """Count the alerts that are not over."""
        statement = select(alert.c.state, func.count()).group_by(alert.c.state)
        with self._database.reading() as connection:
            found = {row[0]: int(row[1]) for row in connection.execute(statement)}
        return Counts(found.get(State.OPEN.value, 0), found.get(State.ACKNOWLEDGED.value, 0))

    def save(self, steps: Iterable[Step], now: float, by: str = SERVICE) -> list[Alert]:
        """Store what was decided, and the events that tell of it; return the alerts as stored.

        An alert that changed its state in the meantime is left out: it is decided on anew. What a
        person did stands in the audit log as done by the actor `by`.
        """
        with self._database.transaction() as connection:
            stored = [(step, _save(connection, step, now)) for step in steps]
            saved = [each for _, each in stored if each is not None]
            for step, each in stored:
                if each is not None and step.action is Action.ACKNOWLEDGED:
                    audit.append(connection, _acknowledged(each, now, by))
        return saved

    def prune(self, before: float) -> int:
        """Delete what was over before then, but the newest of each key; return how many.

        The newest one tells how far a count had come.
        """
        newest = select(func.max(alert.c.number)).group_by(alert.c.key)
        old = delete(alert).where(
            alert.c.state == State.RESOLVED.value,
            alert.c.resolved < before,
            alert.c.number.not_in(newest),
        )
        with self._database.transaction() as connection:
            return connection.execute(old).rowcount


def _save(connection: Connection, step: Step, now: float) -> Alert | None:
    decided, values = step.alert, msgspec.to_builtins(step.alert._asdict())
    del values["number"]
    if decided.number:
        came_from = _before(step)
        statement = update(alert).where(
            alert.c.number == decided.number, alert.c.state.in_([each.value for each in came_from])
        )
        if connection.execute(statement.values(values)).rowcount != 1:
            return None
        kept = decided
    else:
        made = connection.execute(insert(alert).values(values).returning(alert.c.number))
        kept = decided._replace(number=made.scalar_one())
    if step.action is not None:
        event_id, body = events.of_alert(kept, step.action, now)
        enqueue(connection, event_id, kept.kind.value, body, now)
    return kept


def _acknowledged(alert: Alert, now: float, by: str) -> Statement:
    told = {"kind": alert.kind.value, "summary": alert.summary, "note": alert.note}
    return Statement(now, by, "alert.acknowledged", f"alert/{alert.number}", told)


def _before(step: Step) -> tuple[State, ...]:
    """The states that an alert may have been in for this step to be right."""
    if step.action is Action.ACKNOWLEDGED:
        return (State.OPEN,)
    if step.action is Action.RESOLVED:
        return State.OPEN, State.ACKNOWLEDGED
    return (step.alert.state,)


def _loaded(row: Any) -> Alert:  # noqa: ANN401 a row of `alert`
    return msgspec.convert([getattr(row, name) for name in Alert._fields], Alert)
