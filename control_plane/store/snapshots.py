"""A copy of a SQLite database while others write to it, and what such a copy says of itself.

Works on files, without migrating them: a backup keeps the schema that the service has.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy
from sqlalchemy.exc import ArgumentError

from firmware_bundles.errors import BackupInconsistent, ConfigInvalid

if TYPE_CHECKING:
    from pathlib import Path


class Summary(NamedTuple):
    """What a backup tells and checks of a database; manifests are those of allowed releases."""

    schema: str
    devices: int
    releases: int
    files: dict[str, bytes]
    manifests: list[bytes]


def sqlite_file(url: str) -> str:
    """Return the file of a database URL. Raises ConfigInvalid if it is no file of SQLite."""
    try:
        parsed = sqlalchemy.make_url(url)
    except ArgumentError as error:
        raise ConfigInvalid(f"database URL cannot be read: {error}") from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise ConfigInvalid(
            f"a backup copies SQLite alone; this is {parsed.get_backend_name()}",
            hint="Stop the service, use the database's own tool (pg_dump), and copy the folders "
            "keys, ca and chunks of --data after it.",
        )
    return parsed.database


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment (SQLite online backup); writers go on meanwhile.

    Raises BackupInconsistent, OSError.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as present,
            closing(sqlite3.connect(target)) as taken,
        ):
            present.backup(taken)
            taken.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise BackupInconsistent(f"database {source} cannot be copied: {error}") from error


def check(path: Path) -> None:
    """Raise BackupInconsistent unless every page of a database is as SQLite wrote it."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            stray = connection.execute("PRAGMA foreign_key_check").fetchone()
    except sqlite3.Error as error:
        raise BackupInconsistent(f"the database in the backup cannot be read: {error}") from error
    if found != "ok" or stray is not None:
        raise BackupInconsistent(f"the database in the backup is damaged: {found}")


def forget_derived(path: Path) -> None:
    """Delete what the service makes again by itself from what a backup holds: patches.

    Their chunks are in no backup. Raises BackupInconsistent.
    """
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if ("patch",) in tables.fetchall():
                connection.execute("DELETE FROM patch")
    except sqlite3.Error as error:
        raise BackupInconsistent(f"the database in the backup cannot be read: {error}") from error


def summarize(path: Path) -> Summary:
    """Return what a copy says of itself. Raises BackupInconsistent."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            return Summary(
                schema=_one(connection, "SELECT version_num FROM alembic_version"),
                devices=_one(connection, "SELECT count(*) FROM device"),
                releases=_one(connection, "SELECT count(*) FROM release"),
                files=dict(connection.execute("SELECT name, body FROM repository_file")),
                manifests=[
                    bytes(row[0])
                    for row in connection.execute(
                        "SELECT manifest FROM release WHERE NOT is_withdrawn ORDER BY path"
                    )
                ],
            )
    except (sqlite3.Error, TypeError) as error:
        raise BackupInconsistent(f"{path.name} is no database of shoal: {error}") from error


def _one(connection: sqlite3.Connection, query: str) -> Any:  # noqa: ANN401 a column's own type
    return connection.execute(query).fetchone()[0]
