"""Statements that SQLite and PostgreSQL write differently; all others are with their subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Table


def upsert(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert one row, or overwrite the named columns of the row with the same primary key."""
    keys = [column.name for column in table.primary_key]
    changed = {name: value for name, value in values.items() if name not in keys}
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))
