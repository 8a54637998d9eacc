"""The tables of the buffer, made by sqlite-utils.

Runs as a child of its own (`python -m agent.store.buffer_schema PATH`), so that neither core nor
worker imports it. Statements stand in `buffer`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import sqlite_utils

_MODE = 0o660


def migrate(path: Path) -> None:
    """Bring the database at `path` to the present version; a newer one is left as it is.

    The group may write as far as the umask lets it: the core is another user where the worker is a
    unit of its own. SQLite would not allow it, and gives its side files the mode of the database.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE))
    database = sqlite_utils.Database(path)
    database.conn.execute("PRAGMA auto_vacuum = NONE")
    database.enable_wal()
    (version,) = database.conn.execute("PRAGMA user_version").fetchone()
    for number, step in enumerate((_first, _second), start=1):
        if version < number:
            with database.conn:
                step(database)
                database.conn.execute(f"PRAGMA user_version = {number}")
    database.close()


def _first(database: sqlite_utils.Database) -> None:
    segment = database.table("segment")
    segment.create(
        {
            "id": int,
            "incarnation": str,
            "kind": str,
            "first": int,
            "last": int,
            "rows": int,
            "body": bytes,
            "fault": str,  # set: the control plane refused it, and it is parked
        },
        pk="id",
        not_null={"incarnation", "kind", "first", "last", "rows", "body"},
        if_not_exists=True,
    )
    segment.create_index(["incarnation", "kind", "first"], unique=True, if_not_exists=True)
    database.table("window").create(
        {
            "incarnation": str,
            "model": str,
            "family": str,
            "first": int,
            "last": int,
            "rows": int,
            "started": float,
            "ended": float,
            "body": bytes,
        },
        pk=("incarnation", "model"),
        if_not_exists=True,
    )
    database.table("cursor").create(
        {"incarnation": str, "number": int, "offset": int}, pk="incarnation", if_not_exists=True
    )
    database.table("counter").create({"name": str, "value": int}, pk="name", if_not_exists=True)


def _second(database: sqlite_utils.Database) -> None:
    """What was sampled out stays for late labels; what waits is found by kind."""
    answer = database.table("answer")
    answer.create(
        {
            "id": int,
            "incarnation": str,
            "first": int,
            "last": int,
            "rows": int,
            "body": bytes,
        },
        pk="id",
        not_null={"incarnation", "first", "last", "rows", "body"},
        if_not_exists=True,
    )
    answer.create_index(["incarnation", "first"], if_not_exists=True)
    # Predictions are nearly all there is: they are found without it, and sealed without its page.
    database.conn.execute(
        "CREATE INDEX IF NOT EXISTS idx_segment_waiting ON segment (kind, id)"
        " WHERE fault IS NULL AND kind != 'predictions'"
    )
    database.conn.execute(
        "CREATE INDEX IF NOT EXISTS idx_segment_parked ON segment (id) WHERE fault IS NOT NULL"
    )


if __name__ == "__main__":
    migrate(Path(sys.argv[1]))
