"""Rows of the audit log, which are only ever added.

`append` writes in the caller's transaction, so that an entry is there if and only if what it tells
is. It takes the row of the log's head for the rest of the transaction: on PostgreSQL writers wait
there for each other, on SQLite they wait at their begin. Call it last: who holds the head keeps all
others from telling anything. What entries mean, and the chain, stand in `control_plane.audit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import insert, or_, select, update

from control_plane.audit import GENESIS, Entry, Head, Statement, Verification, follow, verify
from control_plane.store.schema import audit_entry, audit_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

    from control_plane.store.database import Database

_TAKE_HEAD: Final = select(audit_head.c.number, audit_head.c.digest).with_for_update()
_ROWS_PER_READ: Final = 1_000
_COLUMNS: Final = tuple(audit_entry.c[field] for field in Entry.__struct_fields__)


def append(connection: Connection, *statements: Statement) -> Head:
    """Add what happened, in the caller's transaction; return the new head."""
    head = Head._make(connection.execute(_TAKE_HEAD).one())
    entries: list[Entry] = []
    for statement in statements:
        entries.append(follow(head, statement))
        head = entries[-1].head
    if entries:
        connection.execute(insert(audit_entry), [msgspec.structs.asdict(each) for each in entries])
        connection.execute(update(audit_head).values(head._asdict()))
    return head


class AuditLog:
    """All that was ordered, decided and done, and by whom."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, statement: Statement) -> None:
        """Add what is not in this database, before it is done."""
        with self._database.transaction() as connection:
            append(connection, statement)

    def head(self) -> Head:
        """Return number and digest of the last entry."""
        with self._database.reading() as connection:
            return _head(connection)

    def after(
        self, number: int, limit: int, *, actor: str = "", action: str = "", subject: str = ""
    ) -> list[Entry]:
        """Return at most `limit` entries after `number`, the oldest first.

        `actor` is a whole actor or a name in it, `action` and `subject` are beginnings.
        """
        query = select(*_COLUMNS).where(audit_entry.c.number > number)
        query = query.order_by(audit_entry.c.number)
        return self._read(query.where(*_filters(actor, action, subject)).limit(limit))

    def before(
        self, number: int, limit: int, *, actor: str = "", action: str = "", subject: str = ""
    ) -> list[Entry]:
        """Return at most `limit` entries before `number`, the newest first; filters as `after`."""
        query = select(*_COLUMNS).where(audit_entry.c.number < number)
        query = query.order_by(audit_entry.c.number.desc())
        return self._read(query.where(*_filters(actor, action, subject)).limit(limit))

    def verify(self, noted: Iterable[Head] = ()) -> Verification:
        """Check the whole log as it is stored, against its own head and those noted elsewhere."""
        with self._database.reading() as connection:
            return verify(_all(connection), [*noted, _head(connection)])

    def _read(self, query: Any) -> list[Entry]:  # noqa: ANN401 - a statement of all columns
        with self._database.reading() as connection:
            return [Entry(**row._asdict()) for row in connection.execute(query)]


def _head(connection: Connection) -> Head:
    found = connection.execute(select(audit_head.c.number, audit_head.c.digest)).first()
    return GENESIS if found is None else Head._make(found)


def _all(connection: Connection) -> Iterator[Entry]:
    number = 0
    query = select(*_COLUMNS).order_by(audit_entry.c.number).limit(_ROWS_PER_READ)
    while rows := connection.execute(query.where(audit_entry.c.number > number)).all():
        for row in rows:
            yield Entry(**row._asdict())
        number = rows[-1].number


def _filters(actor: str, action: str, subject: str) -> list[Any]:
    found: list[Any] = []
    if actor:
        column = audit_entry.c.actor
        named = column.startswith(f"token:{actor}:", autoescape=True)
        owned = column.endswith(f":{actor}", autoescape=True) & column.startswith("token:")
        found.append(or_(column == actor, column == f"device:{actor}", named, owned))
    if action:
        found.append(audit_entry.c.action.startswith(action, autoescape=True))
    if subject:
        found.append(audit_entry.c.subject.startswith(subject, autoescape=True))
    return found
