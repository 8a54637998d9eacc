"""Webhooks, and what is still to be delivered to them.

An event is put here in the transaction that makes it true, once for each webhook that wants it, and
leaves when it was delivered. One that could not be is kept as dead, and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, case, delete, func, insert, select, update

from control_plane.audit import SERVICE, Statement
from control_plane.store import audit
from control_plane.store.watch_schema import delivery, webhook
from firmware_bundles.errors import ConflictError, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from control_plane.store.database import Database

DEAD_KEPT_MAX: Final = 100  # of a webhook


class Webhook(NamedTuple):
    """Somebody who is told; without `kinds` of everything."""

    name: str
    url: str
    secret: str
    kinds: tuple[str, ...]
    created: float
    created_by: str


class Standing(NamedTuple):
    """A webhook, and what became of its events."""

    webhook: Webhook
    waiting: int
    dead: int
    delivered: int
    last_delivered: float | None
    last_error: str | None


class Delivery(NamedTuple):
    """An event on its way to one webhook."""

    number: int
    webhook: Webhook
    event_id: str
    body: bytes
    attempts: int


class Outbox:
    """Reads and writes webhooks and deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, made: Webhook, by: str = SERVICE) -> None:
        """Add a webhook, as the actor `by` asks. Raises ConflictError when one has this name."""
        with self._database.transaction() as connection:
            if _find(connection, made.name) is not None:
                raise ConflictError(
                    f"there is a webhook {made.name!r:.80}",
                    hint="Remove it first, or name another.",
                )
            connection.execute(insert(webhook).values(made._asdict() | {"kinds": [*made.kinds]}))
            told = {"url": made.url, "kinds": [*made.kinds]}
            audit.append(connection, _told(made.created, by, "added", made.name, told))

    def remove(self, name: str, now: float, by: str = SERVICE) -> None:
        """Forget a webhook and what waits for it, as the actor `by` asks. Raises NotFound."""
        with self._database.transaction() as connection:
            connection.execute(delete(delivery).where(delivery.c.webhook == name))
            if connection.execute(delete(webhook).where(webhook.c.name == name)).rowcount != 1:
                raise _unknown(name)
            audit.append(connection, _told(now, by, "removed", name))

    def get(self, name: str) -> Webhook:
        """Return a webhook. Raises NotFound."""
        with self._database.reading() as connection:
            row = _find(connection, name)
        if row is None:
            raise _unknown(name)
        return _webhook(row)

    def all(self) -> list[Standing]:
        """Return all webhooks by name."""
        is_dead = delivery.c.due.is_(None)
        waiting = func.sum(case((and_(delivery.c.number.is_not(None), ~is_dead), 1), else_=0))
        statement = (
            select(webhook, waiting.label("waiting"))
            .outerjoin(delivery, delivery.c.webhook == webhook.c.name)
            .group_by(webhook.c.name)
            .order_by(webhook.c.name)
        )
        with self._database.reading() as connection:
            return [
                Standing(
                    webhook=_webhook(row),
                    waiting=int(row.waiting),
                    dead=row.dead,
                    delivered=row.delivered,
                    last_delivered=row.last_delivered,
                    last_error=row.last_error,
                )
                for row in connection.execute(statement)
            ]

    def due(self, now: float, limit: int) -> list[Delivery]:
        """Return deliveries whose time has come, the longest waiting first."""
        columns = delivery.c.number, delivery.c.event_id, delivery.c.body, delivery.c.attempts
        statement = (
            select(*columns, *webhook.c)
            .join(webhook, webhook.c.name == delivery.c.webhook)
            .where(delivery.c.due <= now)
            .order_by(delivery.c.due, delivery.c.number)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [
                Delivery(row.number, _webhook(row), row.event_id, row.body, row.attempts)
                for row in connection.execute(statement)
            ]

    def delivered(self, each: Delivery, now: float) -> None:
        """Forget a delivery that arrived, and count it."""
        with self._database.transaction() as connection:
            if connection.execute(_the(each)).rowcount == 1:
                counted = {"delivered": webhook.c.delivered + 1, "last_delivered": now}
                _change(connection, each, counted | {"last_error": None})

    def failed(self, each: Delivery, reason: str, due: float | None) -> None:
        """Note a failed attempt; without a next time the delivery is dead, and is counted."""
        values = {"attempts": each.attempts + 1, "due": due, "error": reason}
        with self._database.transaction() as connection:
            statement = update(delivery).where(delivery.c.number == each.number)
            if connection.execute(statement.values(values)).rowcount != 1:
                return
            more = 1 if due is None else 0
            _change(connection, each, {"last_error": reason, "dead": webhook.c.dead + more})
            if more:
                _bury(connection, each.webhook.name)

    def postpone(self, name: str, due: float) -> None:
        """Let what waits for a webhook wait at least until then: it does not answer."""
        statement = update(delivery).where(delivery.c.webhook == name, delivery.c.due < due)
        with self._database.transaction() as connection:
            connection.execute(statement.values(due=due))


def enqueue(connection: Connection, event_id: str, kind: str, body: bytes, now: float) -> None:
    """Let an event go to every webhook that wants its kind, within a transaction."""
    rows = [
        {"webhook": row.name, "event_id": event_id, "body": body, "attempts": 0, "due": now}
        for row in connection.execute(select(webhook.c.name, webhook.c.kinds))
        if not row.kinds or kind in row.kinds
    ]
    if rows:
        connection.execute(insert(delivery), rows)


def _told(
    now: float, by: str, what: str, name: str, details: Mapping[str, Any] | None = None
) -> Statement:
    return Statement(now, by, f"webhook.{what}", f"webhook/{name}", details or {})


def _bury(connection: Connection, name: str) -> None:
    """Keep the newest dead deliveries of a webhook; the count of all stands with it."""
    dead = delivery.c.webhook == name, delivery.c.due.is_(None)
    kept = (
        select(delivery.c.number)
        .where(*dead)
        .order_by(delivery.c.number.desc())
        .limit(DEAD_KEPT_MAX)
    )
    connection.execute(delete(delivery).where(*dead, delivery.c.number.not_in(kept)))


def _the(each: Delivery) -> Any:  # noqa: ANN401 a statement
    return delete(delivery).where(delivery.c.number == each.number)


def _change(connection: Connection, each: Delivery, values: dict[str, Any]) -> None:
    connection.execute(update(webhook).where(webhook.c.name == each.webhook.name).values(values))


def _find(connection: Connection, name: str) -> Any:  # noqa: ANN401 a row
    return connection.execute(select(webhook).where(webhook.c.name == name)).first()


def _webhook(row: Any) -> Webhook:  # noqa: ANN401 a row of `webhook`
    return Webhook(row.name, row.url, row.secret, tuple(row.kinds), row.created, row.created_by)


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no webhook {name!r:.80}")
