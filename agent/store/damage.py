"""A database that is damaged makes room for a new one; one that is only busy does not."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIXES: Final = ("", "-wal", "-shm")
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY: Final = 0xFF  # an extended result code's low byte (SQLite, "Result and Error Codes")


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether the file itself is broken: a lock, a full disk or missing rights pass."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _DAMAGE


def check(connection: sqlite3.Connection) -> str:
    """Return "ok", or the first thing that is wrong with the file. Raises sqlite3.Error."""
    return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])


def set_aside(path: Path, suffix: str) -> None:
    """Rename a damaged database with its side files, so that a new one can take its place."""
    for side in _SUFFIXES:
        file = path.with_name(path.name + side)
        if file.exists():
            target = path.with_name(f"{path.name}.{suffix}{side}")
            if target.is_dir() or (file.is_dir() and target.exists()):  # no rename replaces these
                _remove(target)
            file.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
