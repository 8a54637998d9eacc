"""The migrations lead to the schema that the code uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from control_plane.store import schema
from control_plane.store.database import Database

if TYPE_CHECKING:
    from pathlib import Path


def test_the_migrated_database_has_the_schema(tmp_path: Path) -> None:
    """A database that ran all migrations differs in nothing from schema.metadata."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    with database.reading() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
    database.close()


def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    """A database that is up to date is opened as it is, with its rows."""
    url = f"sqlite:///{tmp_path / 'shoal.db'}"
    first = Database.open(url)
    with first.transaction() as connection:
        row = {"name": "all", "selector": "", "created": 1.0}
        connection.execute(sqlalchemy.insert(schema.cohort).values(row))
    first.close()
    second = Database.open(url)
    with second.reading() as connection:
        assert connection.execute(sqlalchemy.select(schema.cohort)).one() == ("all", "", 1.0, None)
    second.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    """What a transaction did before an error is undone."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    try:
        with database.transaction() as connection:
            row = {"name": "all", "selector": "", "created": 1.0}
            connection.execute(sqlalchemy.insert(schema.cohort).values(row))
            raise InterruptedError
    except InterruptedError:
        pass
    with database.reading() as connection:
        assert connection.execute(sqlalchemy.select(schema.cohort)).all() == []
    database.close()
