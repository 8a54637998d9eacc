"""The migrations lead to the schema that the code uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from control_plane.store import schema
from control_plane.store.access import AccessTokens
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


def test_a_token_of_an_earlier_release_belongs_to_whom_it_is_named_after(tmp_path: Path) -> None:
    """The row that an earlier release wrote has no person; approvals compare its name."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    row = {"prefix": "p", "digest": "d", "name": "anna", "role": "viewer", "created": 1.0}
    with database.transaction() as connection:
        connection.execute(sqlalchemy.insert(schema.api_token).values(row))
    found = AccessTokens(database).find("p")
    assert found is not None
    assert found.owner == "anna"
    database.close()


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
