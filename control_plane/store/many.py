"""Statements that carry many rows at once.

One that runs once for each row gives other threads the interpreter's lock at each row, and waits
for it again; one that carries all rows does so once. So values are bound as they are written, in
statements of few sizes, which drivers keep prepared.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Column, Connection, Table


Values = tuple[Any, ...]

# Rows in one statement, and values: SQLite binds 32,766 at most (SQLITE_MAX_VARIABLE_NUMBER).
_SIZES: Final = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
_VALUES_MAX: Final = 32_766


def run(connection: Connection, template: str, rows: Sequence[Values]) -> list[Values]:
    """Run a statement over rows of equal length; return what it returns.

    `{rows}` in the template becomes the rows, as after `values`.
    """
    # SQLite's driver and PostgreSQL's differ in how they mark a value.
    mark = "?" if connection.dialect.positional else "%s"
    found: list[Values] = []
    for part in _parts(rows):
        statement = _statement(template, mark, len(part[0]), len(part))
        result = connection.exec_driver_sql(statement, tuple(v for row in part for v in row))
        if result.returns_rows:
            found += [tuple(row) for row in result]
    return found


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or overwrite the named columns of those with the same primary keys, in order.

    All rows name the same columns, here and in the other functions on tables.
    """
    _insert(connection, table, rows, lambda name: f"excluded.{name}")


def add(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    newest: Sequence[str],
) -> None:
    """Insert rows, or add them to those with the same primary keys; of `newest` the last stays."""
    _insert(
        connection,
        table,
        rows,
        lambda name: f"excluded.{name}" + ("" if name in newest else f" + {table.name}.{name}"),
    )


def update(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Overwrite the named columns of those rows that are there, in order."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    changed = ", ".join(f"{name} = said.{name}" for name in rows[0] if name not in keys)
    own = " and ".join(f"{table.name}.{name} = said.{name}" for name in keys)
    _say(connection, table, rows, f"update {table.name} set {changed} from said where {own}")  # noqa: S608 names


def _insert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    value: Callable[[str], str],
) -> None:
    if not rows:
        return
    keys, names = [column.name for column in table.primary_key], ", ".join(rows[0])
    changed = ", ".join(f"{name} = {value(name)}" for name in rows[0] if name not in keys)
    # SQLite (3.40) wants `where` before `on conflict`.
    statement = f"""
        insert into {table.name} ({names}) select {names} from said where true
        on conflict ({", ".join(keys)}) do update set {changed}
    """  # noqa: S608 names
    _say(connection, table, rows, statement)


def _say(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], statement: str
) -> None:
    """Run a statement on rows in order; it finds them in `said`, no two with the same key."""
    for part in _rounds(table, rows):
        _say_apart(connection, table, part, statement)


def _rounds(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Part rows so that each primary key comes once in a part; the earlier ones come first."""
    keys = [column.name for column in table.primary_key]
    seen = Counter[Values]()
    found: list[list[Mapping[str, Any]]] = []
    for row in rows:
        key = tuple([row[name] for name in keys])
        if seen[key] == len(found):
            found.append([])
        found[seen[key]].append(row)
        seen[key] += 1
    return found


def _say_apart(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], statement: str
) -> None:
    names = ", ".join(rows[0])
    columns = [_values(connection, table.c[name], rows) for name in rows[0]]
    if connection.dialect.name == "postgresql":
        # One array a column: the same statement however many rows there are, so it is kept.
        arrays = ", ".join(_array(connection, table.c[name]) for name in rows[0])
        unnested = f"with said ({names}) as (select * from unnest({arrays})) {statement}"  # noqa: S608 names
        connection.exec_driver_sql(unnested, tuple(columns))
        return
    run(
        connection,
        f"with said ({names}) as (values {{rows}}) {statement}",
        list(zip(*columns, strict=True)),
    )


def _values(
    connection: Connection, column: Column[Any], rows: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """Return what rows say of a column, as the driver binds it."""
    found = [row[column.name] for row in rows]
    if isinstance(column.type, JSON):
        # As text: PostgreSQL's driver takes its time over lists of documents.
        written = JSON.bind_processor(column.type, connection.dialect)  # type: ignore[no-untyped-call]
        assert written is not None
        return [written(value) for value in found]
    # PostgreSQL's driver wants all values of an array to be of one type.
    kind = column.type.python_type
    return [value if value is None else kind(value) for value in found]


def _array(connection: Connection, column: Column[Any]) -> str:
    kind = column.type.compile(connection.dialect)
    return f"%b::text[]::{kind}[]" if isinstance(column.type, JSON) else f"%b::{kind}[]"


def _parts(rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    start = 0
    while start < len(rows):
        left, width = len(rows) - start, len(rows[start])
        size = next(size for size in _SIZES if size <= left and size * width <= _VALUES_MAX)
        yield rows[start : start + size]
        start += size


@cache
def _statement(template: str, mark: str, columns: int, rows: int) -> str:
    row = "(" + ", ".join([mark] * columns) + ")"
    return template.format(rows=", ".join([row] * rows))
