"""Statements that SQLite and PostgreSQL write differently; all others are with their subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select, Subquery, Table

# For each table of a join. With the default of 4 MiB a million rows go through files.
_JOIN_MIB: Final = 64


def greatest(connection: Connection, *values: Any) -> ColumnElement[int]:  # noqa: ANN401 - numbers
    """Say which of the numbers is the greatest."""
    is_postgresql = connection.dialect.name == "postgresql"
    return (func.greatest if is_postgresql else func.max)(*values)


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
