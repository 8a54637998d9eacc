"""Statements that SQLite and PostgreSQL write differently; all others are with their subject."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, literal
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Select, Table
    from sqlalchemy.engine.interfaces import DBAPIConnection

_SHA256: Final = "shoal_sha256"


def upsert(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert one row, or overwrite the named columns of the row with the same primary key."""
    upsert_all(connection, table, [values])


def upsert_all(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Do the same with many rows, each of the same columns."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(
        statement.on_conflict_do_update(index_elements=keys, set_=changed),
        [dict(row) for row in rows],
    )


def add_all(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    newest: Sequence[str],
) -> None:
    """Insert rows, or add them to those with the same primary keys; of `newest` the last stays."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    changed = {
        name: statement.excluded[name] + (0 if name in newest else table.c[name])
        for name in rows[0]
        if name not in keys
    }
    connection.execute(
        statement.on_conflict_do_update(index_elements=keys, set_=changed),
        [dict(row) for row in rows],
    )


def greatest(connection: Connection, *values: Any) -> ColumnElement[int]:  # noqa: ANN401 - numbers
    """Say which of the numbers is the greatest."""
    is_postgresql = connection.dialect.name == "postgresql"
    return (func.greatest if is_postgresql else func.max)(*values)


def sha256(connection: Connection, before: str, text: Any) -> Any:  # noqa: ANN401 - columns
    """Say the SHA-256 of `before`, a zero byte, and a column of text; bytes order as in Python."""
    if connection.dialect.name == "postgresql":
        start = literal(f"{before}\0".encode())
        return func.sha256(start.op("||")(func.convert_to(text, "UTF8")))
    return getattr(func, _SHA256)(before, text)


def skip_locked(connection: Connection, query: Select[Any], table: Table) -> Select[Any]:
    """Leave rows of `table` to whoever is changing them; SQLite has one writer at a time."""
    if connection.dialect.name == "postgresql":
        return query.with_for_update(of=table, skip_locked=True)
    return query


def add_functions(connection: DBAPIConnection) -> None:
    """Give a connection of SQLite the functions that PostgreSQL has by itself."""
    connection.create_function(_SHA256, 2, _sha256, deterministic=True)


def _sha256(before: str, text: str) -> bytes:
    return hashlib.sha256(f"{before}\0{text}".encode()).digest()
