"""The database: opened once, migrated at start, used through short transactions.

Statements stand in the modules beside this one. What a transaction means for SQLite is settled
here: `transaction` takes the write lock at its begin, so that it never fails half way because
somebody else wrote; `reading` takes none.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from firmware_bundles.errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection

_BUSY_TIMEOUT_MS: Final = 10_000
_CACHE_KIB: Final = 65_536
# Before so much of the log is written back, pages that change again cost nothing more.
_LOG_BYTES: Final = 64 * 1024 * 1024
_PAGE_BYTES: Final = 4_096
_MIGRATIONS: Final = Path(__file__).parent / "migrations"

# PostgreSQL would show each statement what was committed until then.
_READING: Final[Mapping[str, Mapping[str, Any]]] = {
    "sqlite": {"shoal_begin": "BEGIN"},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


class Database:
    """A migrated database. Safe to share between threads; a connection is not."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**_READING.get(engine.dialect.name, {}))

    @classmethod
    def open(cls, url: str) -> Database:
        """Connect, for instance to `sqlite:////var/lib/shoal/shoal.db`, and migrate the schema.

        Raises ConfigInvalid.
        """
        try:
            engine = sqlalchemy.create_engine(url, json_serializer=_json)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise ConfigInvalid(f"database cannot be used: {_first_line(error)}") from error
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        database = cls(engine)
        try:
            database.migrate()
        except (SQLAlchemyError, CommandError) as error:
            database.close()
            shown = engine.url.render_as_string(hide_password=True)
            raise ConfigInvalid(
                f"database {shown} cannot be opened: {_first_line(error)}",
                hint="It must be reachable, and made by this release of shoal or an older one.",
            ) from error
        return database

    def migrate(self) -> None:
        """Run the migrations that this database has not seen, all in one transaction."""
        configuration = Config()
        configuration.set_main_option("script_location", str(_MIGRATIONS))
        with self.transaction() as connection:
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "heads")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection that may write; commits at the end, rolls back on error. Never nest."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection with one consistent view of the data, which no writer waits for."""
        with self._reader.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return next(iter(str(cause).splitlines()), type(cause).__name__)


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # The driver's own transaction control would begin late and commit before DDL.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "foreign_keys = ON",
        f"cache_size = -{_CACHE_KIB}",
        f"wal_autocheckpoint = {_LOG_BYTES // _PAGE_BYTES}",
        f"journal_size_limit = {_LOG_BYTES}",  # one large transaction may have gone beyond
        "temp_store = MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql(options.get("shoal_begin", "BEGIN IMMEDIATE"))
