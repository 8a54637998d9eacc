"""state.db: what the device must not forget. Deployments, slots, detections, floors, counters.

Every write is one transaction with synchronous=FULL: when a method returns, its fact is on disk.
The tables are made by `state_schema`, in a task: this module stays light.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.deployment import lifecycle
from agent.deployment.lifecycle import Record
from agent.deployment.retirement import Phase, Retirement
from agent.store import damage
from firmware_bundles.errors import DeviceError, StateDamaged
from firmware_bundles.limits import DETECTIONS_PER_REPORT_MAX, TEXT_CHARS_MAX
from firmware_bundles.trust import floors
from firmware_bundles.trust.floors import Mark
from firmware_bundles.wire.messages import DeploymentState, Detection, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SCHEMA: Final = 1
_DAMAGED: Final = "is_damaged"
_COUNTER: Final = "report_counter"
_TIME_FLOOR: Final = "time_floor"
# What a database of an earlier agent lacks; it stays usable by both.
_SLOT_COLUMNS: Final = (
    ("installed_at", "REAL NOT NULL DEFAULT 0"),
    ("activated_at", "REAL NOT NULL DEFAULT 0"),
    ("activated_count", "INTEGER NOT NULL DEFAULT 0"),
)
_RETIREMENT: Final = "retirement_"
# A table of its own, so that a database of an earlier agent stays usable by both.
_FLOOR_KEYS: Final = (
    "CREATE TABLE IF NOT EXISTS floor_keys (role TEXT PRIMARY KEY, keys TEXT NOT NULL) STRICT"
)


class SlotRecord(NamedTuple):
    """What is known of one slot. Times are Unix seconds, 0 for never.

    `installed_count` counts the bundles that filled the slot, `activated_count` how often the
    pointer was moved to it.
    """

    family: str
    name: str
    digest: str
    mark: str
    installed_count: int
    installed_at: float
    activated_count: int
    activated_at: float
    committed_at: float


class State:
    """The open state database. Used from one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> State:
        """Open a prepared database.

        Raises StateDamaged if it is missing, foreign or corrupt, and a plain DeviceError if it
        cannot be opened now: a full disk, a lock or missing rights are no damage.
        """
        if not path.exists():
            raise StateDamaged(f"there is no {path}")
        try:
            connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)
        except sqlite3.Error as error:
            raise DeviceError(f"{path} cannot be opened: {error}") from error
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 5000")
            check = damage.check(connection)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            connection.close()
            kind = StateDamaged if damage.is_damage(error) else DeviceError
            raise kind(f"{path} cannot be read: {error}") from error
        if check != "ok" or version != SCHEMA:
            connection.close()
            what = f"schema {version}" if check == "ok" else check
            raise StateDamaged(f"{path} is not usable: {what:.200}")
        try:
            connection.execute(_FLOOR_KEYS)
            _add_slot_columns(connection)
        except sqlite3.Error as error:
            connection.close()
            kind = StateDamaged if damage.is_damage(error) else DeviceError
            raise kind(f"{path} cannot be written: {error}") from error
        return cls(connection)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def records(self) -> dict[str, Record]:
        """Return the newest deployment of each family. Raises StateDamaged."""
        with self._translated():
            rows = self._connection.execute("SELECT family, record FROM deployment").fetchall()
        try:
            return {family: msgspec.json.decode(text, type=Record) for family, text in rows}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StateDamaged(f"a deployment's record cannot be read: {error}") from error

    def save(self, record: Record) -> None:
        """Persist a deployment's record in place of its family's former one. Raises StateDamaged.

        A generation never goes back, whatever the caller holds.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO deployment (family, generation, record) VALUES (?, ?, ?) "
                "ON CONFLICT (family) DO UPDATE SET generation = excluded.generation, "
                "record = excluded.record WHERE excluded.generation >= deployment.generation",
                (record.family, record.generation, msgspec.json.encode(record).decode()),
            )

    def slots(self) -> list[SlotRecord]:
        """Return what is known of every slot that was ever filled."""
        with self._translated():
            columns = ", ".join(SlotRecord._fields)
            rows = self._connection.execute(f"SELECT {columns} FROM slot ORDER BY family, name")  # noqa: S608 - our own names
            return [SlotRecord._make(row) for row in rows]

    def install_slot(self, record: Record, now: float) -> None:
        """Note that the slot of this deployment was filled with an untried bundle. Repeatable."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO slot (family, name, digest, installed_count, installed_at, "
                "committed_at, mark) VALUES (?, ?, ?, 1, ?, 0, 'untried') "
                "ON CONFLICT (family, name) DO UPDATE SET "
                "installed_count = installed_count + (digest <> excluded.digest), "
                "installed_at = excluded.installed_at, committed_at = 0, "
                "digest = excluded.digest, mark = 'untried'",
                (record.family, record.slot, record.model.digest, now),
            )

    def activate_slot(self, family: str, name: str, now: float) -> None:
        """Note that the pointer was moved to a slot."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE slot SET activated_at = ?, activated_count = activated_count + 1 "
                "WHERE family = ? AND name = ?",
                (now, family, name),
            )

    def commit_slot(self, record: Record, now: float) -> None:
        """Note that the slot of this deployment holds a model that proved itself. Repeatable."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO slot (family, name, digest, installed_count, committed_at, mark) "
                "VALUES (?, ?, ?, 1, ?, 'good') ON CONFLICT (family, name) DO UPDATE SET "
                "installed_count = installed_count + (digest <> excluded.digest), "
                "digest = excluded.digest, committed_at = excluded.committed_at, mark = 'good'",
                (record.family, record.slot, record.model.digest, now),
            )

    def mark_slot(self, family: str, name: str, mark: str) -> None:
        """Note what is thought of a slot's model now."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE slot SET mark = ? WHERE family = ? AND name = ?", (mark, family, name)
            )

    def detect(self, code: str, message: str, now: float) -> None:
        """Count something refused; it is in every report from now on."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO detection (code, message, count, last) VALUES (?, ?, 1, ?) "
                "ON CONFLICT (code) DO UPDATE SET count = count + 1, message = excluded.message, "
                "last = excluded.last",
                (code, message[:TEXT_CHARS_MAX], now),
            )

    def detections(self) -> tuple[Detection, ...]:
        """Return what was refused, the newest first, as many as a report may carry."""
        with self._translated():
            rows = self._connection.execute(
                "SELECT code, message, count, last FROM detection ORDER BY last DESC LIMIT ?",
                (DETECTIONS_PER_REPORT_MAX,),
            ).fetchall()
        return tuple(
            Detection(code=code, message=message, count=count, last=last)
            for code, message, count, last in rows
        )

    def next_report(self) -> int:
        """Return the number of the next report, persisted before it is used."""
        with self._transaction():
            counter = int(self._fact(_COUNTER)) + 1
            self._set_fact(_COUNTER, counter)
        return counter

    def time_floor(self) -> float:
        """Return the latest time that a signed message proved, in Unix seconds; 0 if none did."""
        with self._translated():
            return self._fact(_TIME_FLOOR)

    def raise_time_floor(self, proved: float) -> None:
        """Remember a proved time; an earlier one changes nothing."""
        with self._transaction():
            if proved > self._fact(_TIME_FLOOR):
                self._set_fact(_TIME_FLOOR, proved)

    def floors(self) -> dict[str, Mark]:
        """Return the newest verified version of each role, and the keys on which it rests."""
        with self._translated():
            rows = self._connection.execute(
                "SELECT role, version, coalesce(keys, '') FROM floor LEFT JOIN floor_keys "
                "USING (role)"
            ).fetchall()
        return {
            role: Mark(version=version, keys=tuple(keys.split())) for role, version, keys in rows
        }

    def raise_floors(self, found: Mapping[str, Mark]) -> None:
        """Remember the roles of a verified repository.

        Raises RollbackAttempt, and remembers nothing, if any went back.
        """
        with self._transaction() as connection:
            floors.check(self.floors(), found)
            connection.executemany(
                "INSERT INTO floor (role, version) VALUES (?, ?) "
                "ON CONFLICT (role) DO UPDATE SET version = excluded.version",
                [(role, mark.version) for role, mark in found.items()],
            )
            connection.executemany(
                "INSERT INTO floor_keys (role, keys) VALUES (?, ?) "
                "ON CONFLICT (role) DO UPDATE SET keys = excluded.keys",
                [(role, " ".join(mark.keys)) for role, mark in found.items()],
            )

    def retirement(self) -> Retirement:
        """Return how far this device has left the fleet."""
        with self._translated():
            generation, phase, segments, finished = (
                self._fact(_RETIREMENT + name) for name in Retirement._fields
            )
        return Retirement(int(generation), Phase(int(phase)), int(segments), finished)

    def save_retirement(self, retirement: Retirement) -> None:
        """Persist it; a generation never goes back, whatever the caller holds."""
        with self._transaction():
            if retirement.generation >= self._fact(_RETIREMENT + "generation"):
                for name, value in retirement._asdict().items():
                    self._set_fact(_RETIREMENT + name, float(value))

    def end_deployments(self) -> None:
        """Let no deployment go on; their generations stay, so that no old order counts."""
        erased = Fault(code="device.retired", message="the device was retired and erased")
        for record in self.records().values():
            if lifecycle.is_open(record):
                self.save(
                    msgspec.structs.replace(record, state=DeploymentState.FAILED, fault=erased)
                )
        with self._transaction() as connection:
            connection.execute("DELETE FROM slot")

    def is_damaged(self) -> bool:
        """Return whether an earlier database was lost: no activation until the next enrolment."""
        with self._translated():
            return bool(self._fact(_DAMAGED))

    def mark_damaged(self, *, is_damaged: bool) -> None:
        """Set or take back the mark of a lost database."""
        with self._transaction():
            self._set_fact(_DAMAGED, float(is_damaged))

    def _fact(self, name: str) -> float:
        row = self._connection.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return float(row[0]) if row else 0.0

    def _set_fact(self, name: str, value: float) -> None:
        self._connection.execute(
            "INSERT INTO fact (name, value) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateDamaged(f"the state database does not work: {error}") from error


def _add_slot_columns(connection: sqlite3.Connection) -> None:
    known = {name for _, name, *_ in connection.execute("PRAGMA table_info(slot)")}
    for name, kind in _SLOT_COLUMNS:
        if name not in known:
            connection.execute(f"ALTER TABLE slot ADD COLUMN {name} {kind}")
