"""usage.db: bytes received, sent and written, by day, link and purpose.

Apart from state.db, because it is written often and its loss costs no more than the accounts of
some days. Counting is in memory until `flush`.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from agent.store import damage
from firmware_bundles.errors import StateDamaged

if TYPE_CHECKING:
    from pathlib import Path

_DAYS_KEPT: Final = 400
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS usage (day TEXT, link TEXT, purpose TEXT, "
    "received INTEGER NOT NULL, sent INTEGER NOT NULL, written INTEGER NOT NULL, "
    "PRIMARY KEY (day, link, purpose)) STRICT"
)


class Purpose(StrEnum):
    """What bytes are for."""

    MODEL = "model"
    METADATA = "metadata"
    TELEMETRY = "telemetry"
    CONTROL = "control"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of one day, link and purpose; `written` are those that reached the disk."""

    day: str
    link: str
    purpose: Purpose
    received: int = 0
    sent: int = 0
    written: int = 0


class Usage:
    """The open accounts; any thread may count."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, str, Purpose], list[int]] = {}

    @classmethod
    def open(cls, path: Path | None) -> Usage:
        """Open or create the accounts; None keeps them in memory. Raises StateDamaged."""
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA busy_timeout = 5000")
            check = damage.check(connection)
            if check != "ok":
                raise sqlite3.DatabaseError(check)
            connection.execute(_TABLE)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise StateDamaged(f"{path} cannot be used: {error}") from error
        return cls(connection)

    def close(self) -> None:
        """Write what was counted, and close."""
        try:
            self.flush()
        finally:
            self._connection.close()

    def count(
        self,
        day: str,
        link: str,
        purpose: Purpose,
        *,
        received: int = 0,
        sent: int = 0,
        written: int = 0,
    ) -> None:
        """Add bytes; in memory, quick."""
        with self._lock:
            sums = self._counted.setdefault((day, link, purpose), [0, 0, 0])
            for place, value in enumerate((received, sent, written)):
                sums[place] += value

    def flush(self) -> None:
        """Write what was counted. Raises StateDamaged; nothing is forgotten then."""
        with self._lock:
            counted, self._counted = self._counted, {}
            if not counted:
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(
                    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "received = received + excluded.received, sent = sent + excluded.sent, "
                    "written = written + excluded.written",
                    [(*key, *sums) for key, sums in counted.items()],
                )
                self._connection.execute(
                    "DELETE FROM usage WHERE day < (SELECT date(max(day), ?) FROM usage)",
                    (f"-{_DAYS_KEPT} days",),
                )
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._counted = counted
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise StateDamaged(f"the accounts of bytes cannot be written: {error}") from error

    def rows(self, days: int) -> tuple[Row, ...]:
        """Return the newest days, newest first, with what is not written yet."""
        sums: dict[tuple[str, str, Purpose], list[int]] = {}
        with self._lock:
            for row in _stored(self._connection, days):
                sums[row.day, row.link, row.purpose] = [row.received, row.sent, row.written]
            for key, counted in self._counted.items():
                known = sums.setdefault(key, [0, 0, 0])
                sums[key] = [a + b for a, b in zip(known, counted, strict=True)]
        return tuple(
            Row(day=day, link=link, purpose=purpose, received=r, sent=s, written=w)
            for (day, link, purpose), (r, s, w) in sorted(
                sums.items(), key=lambda item: item[0], reverse=True
            )
        )


def read(path: Path, days: int) -> tuple[Row, ...]:
    """Return the newest days without disturbing who counts. Raises StateDamaged."""
    if not path.exists():
        return ()
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return _stored(connection, days)
    except sqlite3.Error as error:
        raise StateDamaged(f"{path} cannot be read: {error}") from error


def _stored(connection: sqlite3.Connection, days: int) -> tuple[Row, ...]:
    try:
        rows = connection.execute(
            "SELECT day, link, purpose, received, sent, written FROM usage WHERE day IN "
            "(SELECT DISTINCT day FROM usage ORDER BY day DESC LIMIT ?) "
            "ORDER BY day DESC, link, purpose",
            (days,),
        ).fetchall()
    except sqlite3.Error as error:
        raise StateDamaged(f"the accounts of bytes cannot be read: {error}") from error
    return tuple(
        Row(day=day, link=link, purpose=Purpose(purpose), received=r, sent=s, written=w)
        for day, link, purpose, r, s, w in rows
    )
