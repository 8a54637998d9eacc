"""What lies in the buffer, for who looks from outside; disturbs neither worker nor core."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from agent.store import ballast
from firmware_bundles.errors import ShoalError, StateDamaged
from firmware_bundles.wire import codec
from firmware_bundles.wire.messages import Segment, SegmentKind

_BY_KIND: Final = (
    "SELECT kind, count(*), sum(rows), sum(length(body)), sum(fault IS NOT NULL) FROM segment"
    " GROUP BY kind"
)
_FAULTS_MAX: Final = 8


class KindFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Segments of one kind: those that lie here, parked ones among them, and those dropped."""

    kind: str
    segments: int = 0
    rows: int = 0
    bytes: int = 0
    parked: int = 0
    dropped_segments: int = 0
    dropped_rows: int = 0


class ContentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that lies in the buffer.

    `oldest` is when the oldest row that waits was made, in Unix seconds, None if none waits;
    `answers` are kept for late labels only; `journal_bytes_lost` could not be read after a crash,
    and lie in files set aside. `quota_bytes` is 0 before a worker wrote it down.
    """

    path: str
    file_bytes: int
    quota_bytes: int
    has_ballast: bool
    oldest: float | None
    kinds: tuple[KindFacts, ...]
    open_windows: int
    answers: int
    answers_forgotten: int
    rows_dropped: int
    journal_bytes_lost: int
    faults: tuple[str, ...]


def read(path: Path) -> ContentFacts:
    """Return what lies in the buffer at `path`. Raises StateDamaged."""
    if not path.exists():
        raise StateDamaged(
            f"there is no buffer at {path}", hint="The inference worker makes it when it starts."
        )
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return _read(path, connection)
    except sqlite3.Error as error:
        raise StateDamaged(f"the buffer {path} cannot be read: {error}") from error


def _read(path: Path, connection: sqlite3.Connection) -> ContentFacts:
    counters = dict(connection.execute("SELECT name, value FROM counter").fetchall())
    found = {row[0]: row[1:] for row in connection.execute(_BY_KIND)}
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    answers = "SELECT coalesce(sum(rows), 0) FROM answer" if "answer" in tables else "SELECT 0"
    faults = connection.execute(
        "SELECT DISTINCT fault FROM segment WHERE fault IS NOT NULL LIMIT ?", (_FAULTS_MAX,)
    )
    return ContentFacts(
        path=str(path),
        file_bytes=sum(_size(path.with_name(path.name + side)) for side in ("", "-wal")),
        quota_bytes=counters.get("quota_bytes", 0),
        has_ballast=ballast.path_of(path).exists(),
        oldest=_oldest(connection),
        kinds=tuple(_kind(each.value, found.get(each.value), counters) for each in SegmentKind),
        open_windows=_number(connection, "SELECT count(*) FROM window"),
        answers=_number(connection, answers),
        answers_forgotten=counters.get("answers_forgotten", 0),
        rows_dropped=counters.get("rows_dropped", 0),
        journal_bytes_lost=counters.get("journal_bytes_lost", 0),
        faults=tuple(str(row[0]) for row in faults),
    )


def _kind(kind: str, found: tuple[int, ...] | None, counters: dict[str, int]) -> KindFacts:
    segments, rows, size, parked = found or (0, 0, 0, 0)
    return KindFacts(
        kind=kind,
        segments=segments,
        rows=rows,
        bytes=size,
        parked=parked,
        dropped_segments=counters.get(f"dropped_{kind}_segments", 0),
        dropped_rows=counters.get(f"dropped_{kind}_rows", 0),
    )


def _oldest(connection: sqlite3.Connection) -> float | None:
    query = "SELECT body FROM segment WHERE fault IS NULL ORDER BY id LIMIT 1"
    row = connection.execute(query).fetchone()
    if row is None:
        return None
    try:
        return codec.decode(Segment, row[0]).started
    except ShoalError:
        return None  # the forwarder will park it


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
