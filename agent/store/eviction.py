"""What leaves the buffer when there is no room: kind by kind, the oldest first, each counted.

First what is only kept for late labels, then what is parked, samples, single answers, windows, and
labels last. A disk that is full takes not even a deletion: the ballast makes room for it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from agent.store import ballast
from firmware_bundles.wire.messages import SegmentKind

ORDER: Final = (
    SegmentKind.SAMPLES,
    SegmentKind.SHADOW,
    SegmentKind.PREDICTIONS,
    SegmentKind.WINDOW,
    SegmentKind.LABELS,
)
_SLACK_BYTES: Final = 4096
_VICTIMS_MAX: Final = 256
_PLENTY_BYTES: Final = 16 * 1024 * 1024
_PARKED: Final = (
    "SELECT id, length(body), kind, rows FROM segment WHERE fault IS NOT NULL ORDER BY id LIMIT ?"
)
_OF_KIND: Final = (
    "SELECT id, length(body), kind, rows FROM segment WHERE fault IS NULL AND kind = ?"
    " ORDER BY id LIMIT ?"
)
# The terms of the index of what is no prediction stand in the query: else it would not be used.
_OF_OTHER_KIND: Final = _OF_KIND.replace("AND kind =", "AND kind != 'predictions' AND kind =")
# Rows of windows are those of predictions, and counted there.
_COUNTED_AS: Final = {
    SegmentKind.WINDOW.value: None,
    SegmentKind.SAMPLES.value: "samples_dropped",
}
_ANSWERS: Final = "SELECT id, length(body) FROM answer ORDER BY id LIMIT ?"
# SQLite tells some full disks as an error of its log.
_FULL: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
)


class _Victim(NamedTuple):
    number: int
    size: int
    kind: str = ""
    rows: int = 0


def is_full(error: sqlite3.OperationalError) -> bool:
    """Return whether quota or disk are used up."""
    return error.sqlite_errorcode in _FULL


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done inside, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def add(connection: sqlite3.Connection, name: str, more: int) -> None:
    """Add to a counter that survives restarts."""
    if more:
        connection.execute(
            "INSERT INTO counter VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, more),
        )


def make_room(
    connection: sqlite3.Connection, database: Path, bytes_wanted: int, pages_max: int
) -> bool:
    """Evict about so many bytes; return whether there is hope that there is room now.

    Where the disk takes not even that, the ballast's room is given to it, and the file grows no
    more until the disk has plenty again; `pages_max` is the quota for then.
    """
    if _pages(connection, "max_page_count") < pages_max and _free_bytes(database) >= _PLENTY_BYTES:
        connection.execute(f"PRAGMA max_page_count = {pages_max}").fetchall()
        ballast.lay(database)
        return True
    reliefs: tuple[Callable[[], object], ...] = (
        lambda: None,
        lambda: _empty_log(connection),
        lambda: ballast.drop(database),
    )
    for relief in reliefs:
        relief()
        try:
            is_evicted = _evict(connection, bytes_wanted)
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise
        else:
            if relief is not reliefs[0]:
                _settle(connection, database)
            return is_evicted
    return False


def _settle(connection: sqlite3.Connection, database: Path) -> None:
    """After a full disk: what was deleted is free once the log is in the file; grow no more."""
    _empty_log(connection)
    pages = _pages(connection, "page_count")
    connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    ballast.lay(database)


def _pages(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _free_bytes(path: Path) -> int:
    facts = os.statvfs(path.parent)
    return facts.f_bavail * facts.f_frsize


def _empty_log(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as error:
        if not is_full(error):
            raise


def _evict(connection: sqlite3.Connection, bytes_wanted: int) -> bool:
    wanted = bytes_wanted + _SLACK_BYTES
    with transaction(connection):
        left = wanted - _evict_answers(connection, wanted)
        left -= _evict_segments(connection, _PARKED, (), left)
        for kind in ORDER:
            query = _OF_KIND if kind is SegmentKind.PREDICTIONS else _OF_OTHER_KIND
            left -= _evict_segments(connection, query, (kind.value,), left)
    return left < wanted


def _evict_answers(connection: sqlite3.Connection, bytes_wanted: int) -> int:
    rows = connection.execute(_ANSWERS, (_VICTIMS_MAX,)).fetchall()
    victims = _first([_Victim(*row) for row in rows], bytes_wanted)
    connection.executemany("DELETE FROM answer WHERE id = ?", [(each.number,) for each in victims])
    add(connection, "answers_forgotten", len(victims))
    return sum(each.size for each in victims)


def _evict_segments(
    connection: sqlite3.Connection, query: str, values: tuple[str, ...], bytes_wanted: int
) -> int:
    if bytes_wanted <= 0:
        return 0
    rows = connection.execute(query, (*values, _VICTIMS_MAX)).fetchall()
    victims = _first([_Victim(*row) for row in rows], bytes_wanted)
    connection.executemany("DELETE FROM segment WHERE id = ?", [(each.number,) for each in victims])
    for each in victims:
        add(connection, f"dropped_{each.kind}_segments", 1)
        add(connection, f"dropped_{each.kind}_rows", each.rows)
        if (counter := _COUNTED_AS.get(each.kind, "rows_dropped")) is not None:
            add(connection, counter, each.rows)
    return sum(each.size for each in victims)


def _first(found: Sequence[_Victim], bytes_wanted: int) -> list[_Victim]:
    victims: list[_Victim] = []
    freed = 0
    for each in found:
        if freed >= bytes_wanted:
            break
        victims.append(each)
        freed += each.size
    return victims
