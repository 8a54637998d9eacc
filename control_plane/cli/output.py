"""What commands print: answers on standard output, remarks and errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from control_plane.cli.options import CURRENT, Format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from firmware_bundles.errors import ShoalError

    Columns = Sequence[str] | Mapping[str, Callable[[Any], str]]

_WIDTH_WITHOUT_TERMINAL = 1000


def is_json() -> bool:
    """Whether the user wants JSON."""
    return CURRENT.get().output is Format.JSON


def show(rows: Sequence[Mapping[str, Any]], columns: Columns, *, empty: str = "none") -> None:
    """Print rows: as JSON with all fields, as a table with those in `columns`, in that order.

    `columns` may map a field to the function that words its value.
    """
    if is_json():
        show_json(list(rows))
    elif rows:
        _print_table([column.replace("_", " ").upper() for column in columns], rows, columns)
    else:
        note(empty)


def show_one(document: Mapping[str, Any], columns: Columns | None = None) -> None:
    """Print one thing, a field a line."""
    chosen = columns if columns is not None else list(document)
    if is_json():
        show_json(document)
        return
    width = max((len(name) for name in chosen), default=0)
    for name in chosen:
        print(f"{name.replace('_', ' '):<{width}}  {_word(name, document.get(name), chosen)}")


def show_json(document: object) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2, default=str, ensure_ascii=False))


def note(text: str) -> None:
    """Say something that is no answer, where it does not disturb what reads the answer."""
    print(clean(text), file=sys.stderr)


def fail(error: ShoalError) -> None:
    """Tell an error in one line, and what to do about it in the next."""
    note(f"error: {error.message} ({error.code})")
    if error.hint:
        note(f"hint: {error.hint}")


def clean(text: str) -> str:
    """Return `text` without what would move a terminal's cursor: it may come from a device."""
    return "".join(char if char.isprintable() else " " for char in text)


def _word(name: str, value: object, columns: Columns) -> str:
    if isinstance(columns, Mapping):
        return clean(columns[name](value))
    return clean(plain(value))


def plain(value: object) -> str:
    """Return a value as it is shown where nothing else was said."""
    match value:
        case _ if value is None or value in ("", [], (), {}):
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case dict():
            return ", ".join(f"{key}={plain(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(plain(item) for item in value)
        case _:
            return str(value)


def _print_table(titles: list[str], rows: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_word(name, row.get(name), columns)) for name in columns))
    Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL).print(table)
