"""The buffer of sealed segments: every statement on `buffer.db`.

The worker seals into it, the core's forwarder empties it; each has a connection of its own. WAL
with synchronous=FULL: a commit survives a power cut. When the quota of pages is used up, or the
disk is full, the oldest goes, and is counted (`eviction`). Tables: `buffer_schema`.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import UNSET

from agent.store import ballast, damage, eviction
from agent.store.eviction import add, transaction
from agent.store.journal import Position
from firmware_bundles.errors import StateDamaged, StorageFull
from firmware_bundles.wire.messages import BufferFacts, SegmentKey, SegmentKind

# In which order they leave: how things are, what was right, then every single answer.
SENT_FIRST: Final = (
    SegmentKind.WINDOW,
    SegmentKind.LABELS,
    SegmentKind.SHADOW,
    SegmentKind.PREDICTIONS,
    SegmentKind.SAMPLES,
)
_PREDICTIONS: Final = (
    "SELECT id, body FROM segment WHERE fault IS NULL AND kind = ? ORDER BY id LIMIT ?"
)
# The terms of the index stand in the query: otherwise it would not be used.
_OLDEST: Final = (
    "SELECT id, body FROM segment WHERE fault IS NULL AND kind != 'predictions' AND kind = ?"
    " ORDER BY id LIMIT ?"
)
_NEWEST: Final = _OLDEST.replace("ORDER BY id", "ORDER BY id DESC")
_QUERIES: Final = {SegmentKind.PREDICTIONS: _PREDICTIONS, SegmentKind.WINDOW: _NEWEST}
_CURSOR: Final = (
    "INSERT INTO cursor VALUES (?, ?, ?) ON CONFLICT (incarnation)"
    " DO UPDATE SET number = excluded.number, offset = excluded.offset"
)
# What any statement here may raise, for callers that know nothing of SQL.
DatabaseError = sqlite3.Error

SCHEMA_VERSION: Final = 2
# What the forwarder needs has been there since: it does not wait for a worker of its own release.
FORWARDED_VERSION: Final = 1
BYTES_MAX_DEFAULT: Final = 64 * 1024 * 1024

_PAGE_BYTES: Final = 4096
_BUSY_MS: Final = 5000
_WAL_PAGES: Final = 256
_WAL_BYTES_MAX: Final = 1024 * 1024
_CACHE_BYTES_MAX: Final = 256 * 1024  # SQLite's own 2 MB twice would be for nothing
_EVICTED_ROUNDS_MAX: Final = 64
_SCHEMA_S_MAX: Final = 60


# What samples count in the budget of a day: CAPTURED FAMILY DAY.
_CAPTURED: Final = "captured"


class Sealed(NamedTuple):
    """A segment in the buffer: `body` is the encoded message, ready to send."""

    key: SegmentKey
    rows: int
    body: bytes


class Dropped(NamedTuple):
    """What was not kept: rows, and inputs that were to be captured."""

    rows: int = 0
    samples: int = 0

    def plus(self, kind: SegmentKind, rows: int) -> Dropped:
        """Add a segment of so many rows."""
        if kind is SegmentKind.SAMPLES:
            return self._replace(samples=self.samples + rows)
        return self._replace(rows=self.rows + rows)


_NONE_DROPPED: Final = Dropped()


class Kept(NamedTuple):
    """Answers of predictions that are not delivered, for labels that come late."""

    first: int
    last: int
    rows: int
    body: bytes


class OpenWindow(NamedTuple):
    """The checkpoint of a window that is not closed yet: `body` is the encoded sketch."""

    family: str
    model: str
    first: int
    last: int
    rows: int
    started: float
    ended: float
    body: bytes


class Stored(NamedTuple):
    """A segment that waits to be delivered; `number` orders them."""

    number: int
    body: bytes


def ensure(path: Path) -> bool:
    """Create or migrate the database at `path`, in a child process.

    Returns whether a damaged one was there: it lies beside the new one, and what it held is lost.
    Raises StateDamaged, DatabaseError.
    """
    is_damaged = _is_damaged(path)
    if is_damaged:
        damage.set_aside(path, "damaged")
    elif is_ready(path):
        return False
    command = [sys.executable, "-I", "-m", "agent.store.buffer_schema", str(path)]
    try:
        subprocess.run(command, check=True, timeout=_SCHEMA_S_MAX, stdin=subprocess.DEVNULL)
    except (subprocess.SubprocessError, OSError) as error:
        raise StateDamaged(f"the buffer {path} cannot be set up: {error}") from error
    return is_damaged


def is_ready(path: Path, version_min: int = SCHEMA_VERSION) -> bool:
    """Return whether there is a buffer of this version at least at `path`. Raises DatabaseError."""
    if not path.exists():
        return False
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    finally:
        connection.close()
    return bool(version >= version_min)


def _is_damaged(path: Path) -> bool:
    if not path.exists():
        return False
    if not path.is_file():
        return True  # a folder lies where it was
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000)
    try:
        return damage.check(connection) != "ok"
    except sqlite3.Error as error:
        if damage.is_damage(error):
            return True
        raise
    finally:
        connection.close()


class Buffer:
    """A connection to the buffer, for one thread at a time. Made by `ensure` before."""

    def __init__(self, path: Path, bytes_max: int = BYTES_MAX_DEFAULT) -> None:
        self.path = path
        self._windowless: set[str] = set()  # incarnations that have no open window for sure
        self._pages_max = max(64, bytes_max // _PAGE_BYTES)
        ballast.lay(path)
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000
        )
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"max_page_count = {self._pages_max}",
            f"wal_autocheckpoint = {_WAL_PAGES}",
            f"journal_size_limit = {_WAL_BYTES_MAX}",
            f"cache_size = -{_CACHE_BYTES_MAX // 1024}",
        ):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def cursor(self, incarnation: str) -> Position:
        """Return up to where the journal of `incarnation` was sealed."""
        query = "SELECT number, offset FROM cursor WHERE incarnation = ?"
        row = self._connection.execute(query, (incarnation,)).fetchone()
        return Position(*row) if row else Position()

    def windows(self, incarnation: str) -> list[OpenWindow]:
        """Return the checkpoints of the windows that `incarnation` had open."""
        query = (
            "SELECT family, model, first, last, rows, started, ended, body FROM window"
            " WHERE incarnation = ?"
        )
        return [OpenWindow(*row) for row in self._connection.execute(query, (incarnation,))]

    def incarnations(self) -> list[str]:
        """Return the incarnations that have a cursor or an open window."""
        query = "SELECT incarnation FROM cursor UNION SELECT incarnation FROM window"
        return [row[0] for row in self._connection.execute(query)]

    def seal(
        self,
        incarnation: str,
        cursor: Position,
        segments: Sequence[Sealed],
        windows: Sequence[OpenWindow],
        *,
        kept: Sequence[Kept] = (),
        dropped: Dropped = _NONE_DROPPED,
        captured: Sequence[tuple[str, int, int]] = (),
    ) -> None:
        """Add segments, the open windows and the journal's cursor in one transaction.

        `captured` is by family and day what samples count in its budget. Where quota or disk do not
        suffice, the oldest go first, kind by kind, and are counted. Raises StorageFull
        when even that does not help; then nothing has changed.
        """
        for _ in range(_EVICTED_ROUNDS_MAX):
            try:
                with transaction(self._connection):
                    self._insert(incarnation, cursor, segments, windows)
                    self._count_dropped(dropped)
                    self._count_captured(captured)
                    self._keep(incarnation, kept)
                self._note_windows(incarnation, windows)
                return
            except sqlite3.OperationalError as error:
                if not eviction.is_full(error):
                    raise
            wanted = sum(len(segment.body) for segment in segments)
            if not eviction.make_room(self._connection, self.path, wanted, self._pages_max):
                break
        raise StorageFull("the buffer is full, and nothing in it can be dropped")

    def forget(self, incarnation: str) -> None:
        """Remove the cursor of an incarnation whose journal is gone."""
        self._connection.execute("DELETE FROM cursor WHERE incarnation = ?", (incarnation,))

    def find(self, incarnation: str, sequence: int) -> list[bytes]:
        """Return the encoded predictions segments that may hold a prediction."""
        query = (
            "SELECT body, last FROM segment WHERE incarnation = ? AND kind = ? AND first <= ?"
            " ORDER BY first DESC LIMIT 16"
        )
        kind = SegmentKind.PREDICTIONS.value
        rows = self._connection.execute(query, (incarnation, kind, sequence))
        # Segments of several models may overlap; the newest ones that begin before are few.
        found = [body for body, last in rows if last >= sequence]
        query = (
            "SELECT body, last FROM answer WHERE incarnation = ? AND first <= ?"
            " ORDER BY first DESC LIMIT 16"
        )
        kept = self._connection.execute(query, (incarnation, sequence))
        return found + [body for body, last in kept if last >= sequence]

    def facts(self) -> BufferFacts:
        """Return how full the buffer is."""
        segments, size = self._connection.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM segment"
        ).fetchone()
        parked, windows = self.count("segments_parked"), self.count("dropped_window_segments")
        return BufferFacts(
            segments=segments,
            bytes=size,
            rows_dropped=self.count("rows_dropped"),
            samples_dropped=self.count("samples_dropped") or UNSET,
            segments_parked=parked or UNSET,
            windows_dropped=windows or UNSET,
        )

    def waiting(self, limit: int, *, with_samples: bool = True) -> list[Stored]:
        """Return segments that are not parked: windows first, then by kind in order of sealing.

        Of windows the newest come first: after an outage they tell how things are now. Samples come
        last.
        """
        found: list[Stored] = []
        for kind in SENT_FIRST if with_samples else SENT_FIRST[:-1]:
            query = _QUERIES.get(kind, _OLDEST)
            rows = self._connection.execute(query, (kind.value, limit - len(found)))
            found += [Stored(*row) for row in rows]
            if len(found) >= limit:
                break
        return found

    def count_lost(self, journal_bytes: int) -> None:
        """Count bytes of a journal that could not be read, and lie beside it."""
        with transaction(self._connection):
            add(self._connection, "journal_bytes_lost", journal_bytes)

    def set_quota(self, bytes_max: int) -> None:
        """Write down how large the file may become, for who looks at it from outside."""
        query = "INSERT OR REPLACE INTO counter VALUES ('quota_bytes', ?)"
        self._connection.execute(query, (bytes_max,))

    def captured(self) -> dict[str, tuple[int, int]]:
        """Return by family the latest day with samples, and what they count in its budget."""
        found: dict[str, tuple[int, int]] = {}
        query = "SELECT name, value FROM counter WHERE name LIKE ?"
        for name, value in self._connection.execute(query, (f"{_CAPTURED} %",)):
            _, family, day = name.split(" ")
            found[family] = max(found.get(family, (0, 0)), (int(day), value))
        return found

    def acknowledge(self, key: SegmentKey) -> None:
        """Delete a segment: the control plane has it for good."""
        self._connection.execute(
            "DELETE FROM segment WHERE incarnation = ? AND kind = ? AND first = ? AND last = ?",
            (key.incarnation, key.kind.value, key.first, key.last),
        )

    def park(self, key: SegmentKey, fault: str) -> None:
        """Keep a segment that the control plane refused, but never send it again; count it."""
        row = self._connection.execute(
            "SELECT id FROM segment WHERE incarnation = ? AND kind = ? AND first = ? AND last = ?",
            (key.incarnation, key.kind.value, key.first, key.last),
        ).fetchone()
        if row:
            self.park_number(row[0], fault)

    def park_number(self, number: int, fault: str) -> None:
        """Park the segment with this number; see `park`."""
        with transaction(self._connection):
            parked = self._connection.execute(
                "UPDATE segment SET fault = ? WHERE id = ? AND fault IS NULL", (fault, number)
            ).rowcount
            add(self._connection, "segments_parked", parked)

    def count(self, name: str) -> int:
        """Return a counter that survives restarts, 0 if nothing was counted."""
        query = "SELECT value FROM counter WHERE name = ?"
        row = self._connection.execute(query, (name,)).fetchone()
        return int(row[0]) if row else 0

    def _insert(
        self,
        incarnation: str,
        cursor: Position,
        segments: Sequence[Sealed],
        windows: Sequence[OpenWindow],
    ) -> None:
        execute = self._connection.execute
        self._connection.executemany(
            "INSERT INTO segment (incarnation, kind, first, last, rows, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (key.incarnation, key.kind.value, key.first, key.last, rows, body)
                for key, rows, body in segments
            ],
        )
        if windows or incarnation not in self._windowless:
            execute("DELETE FROM window WHERE incarnation = ?", (incarnation,))
        self._connection.executemany(
            "INSERT INTO window VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(incarnation, window.model, window.family, *window[2:]) for window in windows],
        )
        execute(_CURSOR, (incarnation, *cursor))

    def _note_windows(self, incarnation: str, windows: Sequence[OpenWindow]) -> None:
        if windows:
            self._windowless.discard(incarnation)
        else:
            self._windowless.add(incarnation)

    def _keep(self, incarnation: str, kept: Sequence[Kept]) -> None:
        self._connection.executemany(
            "INSERT INTO answer (incarnation, first, last, rows, body) VALUES (?, ?, ?, ?, ?)",
            [(incarnation, *each) for each in kept],
        )

    def _count_dropped(self, dropped: Dropped) -> None:
        add(self._connection, "rows_dropped", dropped.rows)
        add(self._connection, "samples_dropped", dropped.samples)

    def _count_captured(self, captured: Sequence[tuple[str, int, int]]) -> None:
        """Add to the budgets of days; of a family only the latest two are kept."""
        for family, day, size in captured:
            add(self._connection, f"{_CAPTURED} {family} {day}", size)
            self._connection.execute(
                "DELETE FROM counter WHERE name LIKE ? AND name NOT IN ("
                "SELECT name FROM counter WHERE name LIKE ? ORDER BY name DESC LIMIT 2)",
                (f"{_CAPTURED} {family} %", f"{_CAPTURED} {family} %"),
            )
