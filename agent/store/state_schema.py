"""The tables of state.db. Heavy (sqlite-utils): runs in a task or in the enrol command only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlite_utils

from agent.store.state import SCHEMA

if TYPE_CHECKING:
    from pathlib import Path


def prepare(path: Path) -> None:
    """Create what is missing in the state database and note the schema's number. Safe to repeat."""
    database = sqlite_utils.Database(path)
    try:
        database.enable_wal()
        database.execute("PRAGMA synchronous = FULL")
        tables = database.table_names()
        if "deployment" not in tables:
            database.table("deployment").create(
                {"family": str, "generation": int, "record": str},
                pk="family",
                not_null={"generation", "record"},
                strict=True,
            )
        if "slot" not in tables:
            database.table("slot").create(
                {
                    "family": str,
                    "name": str,
                    "digest": str,
                    "installed_count": int,
                    "committed_at": float,
                    "mark": str,
                },
                pk=("family", "name"),
                not_null={"digest", "installed_count", "committed_at", "mark"},
                strict=True,
            )
        if "detection" not in tables:
            database.table("detection").create(
                {"code": str, "message": str, "count": int, "last": float},
                pk="code",
                not_null={"message", "count", "last"},
                strict=True,
            )
        if "floor" not in tables:
            database.table("floor").create(
                {"role": str, "version": int}, pk="role", not_null={"version"}, strict=True
            )
        if "fact" not in tables:
            database.table("fact").create(
                {"name": str, "value": float}, pk="name", not_null={"value"}, strict=True
            )
        database.execute(f"PRAGMA user_version = {SCHEMA:d}")
        database.conn.commit()
    finally:
        database.close()
