"""Statements that SQLite and PostgreSQL write differently; all others are with their subject."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, literal

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select, Subquery, Table
    from sqlalchemy.engine.interfaces import DBAPIConnection

# For each table of a join. With the default of 4 MiB a million rows go through files.
_JOIN_MIB: Final = 64
_SHA256: Final = "shoal_sha256"


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


def row_by_row(connection: Connection, query: Select[Any], key: Any) -> Subquery:  # noqa: ANN401 - a column
    """Return a query to be grouped, of which each row is worked out once, in the order of `key`.

    SQLite would take an index that has rows in an order in which none is near the next, and would
    sort all that the sums are made of in place of the sums' terms: five times the time, for a
    million rows. PostgreSQL sees to both by itself.
    """
    if connection.dialect.name == "postgresql":
        return query.subquery()
    return query.order_by(key).limit(-1).subquery()


def room_to_join(connection: Connection) -> None:
    """Let this transaction join large tables in memory; SQLite needs none for it."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"set local work_mem = '{_JOIN_MIB}MB'")


def add_functions(connection: DBAPIConnection) -> None:
    """Give a connection of SQLite the functions that PostgreSQL has by itself."""
    connection.create_function(_SHA256, 2, _sha256, deterministic=True)


def _sha256(before: str, text: str) -> bytes:
    return hashlib.sha256(f"{before}\0{text}".encode()).digest()
