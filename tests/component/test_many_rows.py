"""Rows that one statement carries end up as if each had been written by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import insert, select

from control_plane.store import many
from control_plane.store.database import Database
from control_plane.store.schema import device, metric_answer
from control_plane.store.tally_schema import service_count, service_said
from support.rollout_fleet import device_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Table

NAMES: Final = tuple(f"device-{number:04}" for number in range(700))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with devices."""
    opened = Database.open(database_url)
    with opened.transaction() as connection:
        connection.execute(insert(device), [device_row(name) for name in NAMES])
    yield opened
    opened.close()


def test_the_last_of_rows_with_one_key_stays(database: Database) -> None:
    """Of several rows with one primary key the last one is stored, wherever in the batch it is."""
    rows = [_counted(name, failed=number) for number in range(3) for name in NAMES]
    with database.transaction() as connection:
        many.upsert(connection, service_count, rows)
    assert {row["failed"] for row in _rows(database, service_count)} == {2}
    assert len(_rows(database, service_count)) == len(NAMES)


def test_rows_are_added_to_those_before(database: Database) -> None:
    """Counts add up over calls and within one; what is to be the newest is that of the last row."""
    twice = [_counted(NAMES[0], failed=2, received=5.0), _counted(NAMES[0], failed=3, received=6.0)]
    with database.transaction() as connection:
        many.add(connection, service_count, twice, newest=("received",))
        many.add(connection, service_count, twice, newest=("received",))
    (row,) = _rows(database, service_count)
    assert (row["failed"], row["requests"], row["received"]) == (10, 40, 6.0)


def test_an_update_changes_rows_that_are_there_and_makes_none(database: Database) -> None:
    """Of an update only the named columns of known rows change, whatever documents they hold."""
    said = {"inventory": {"model": 'a "quoted" \\ name', "nested": [1, None]}, "buffer": None}
    rows = [{"id": name, "last_seen": 7, **said} for name in (*NAMES, "stranger")]
    before = {row["id"]: row for row in _rows(database, device)}
    with database.transaction() as connection:
        many.update(connection, device, rows)
    after = {row["id"]: row for row in _rows(database, device)}
    assert after == {name: {**before[name], "last_seen": 7.0, **said} for name in NAMES}


def test_a_value_that_is_not_known_stays_unknown(database: Database) -> None:
    """None is stored as NULL, next to values of the same column."""
    rows = [
        {"device_id": NAMES[0], "family": "digits", "model": "m", "since": 1.0, "answered": 1}
        | {"failed": failed, "deaths": None, "received": 2.0, "family": family}
        for family, failed in (("digits", None), ("letters", 4))
    ]
    with database.transaction() as connection:
        many.upsert(connection, service_said, rows)
    found = {row["family"]: row["failed"] for row in _rows(database, service_said)}
    assert found == {"digits": None, "letters": 4}


def test_nothing_is_written_for_no_rows(database: Database) -> None:
    """A batch without rows is no error and changes nothing."""
    with database.transaction() as connection:
        many.upsert(connection, metric_answer, [])
        many.add(connection, service_count, [], newest=())
        many.update(connection, device, [])
    assert _rows(database, metric_answer) == []


def _counted(name: str, *, failed: int, received: float = 1.0) -> dict[str, Any]:
    return {
        "device_id": name,
        "family": "digits",
        "model": "m",
        "span": 1,
        "received": received,
        "requests": 10,
        "failed": failed,
        "seconds": 1.5,
        "deaths": 0,
    }


def _rows(database: Database, table: Table) -> list[dict[str, Any]]:
    with database.reading() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]
