"""Statements that carry many rows at once.

One that runs once for each row gives other threads the interpreter's lock at each row, and waits
for it again; one that carries all rows does so once. So values are bound as they are written, in
statements of few sizes, which drivers keep prepared.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

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
