"""Rows of releases and the files of the models repository. They change together or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, insert, select, update

from control_plane.store import audit, many
from control_plane.store.schema import release, repository_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Column, Connection

    from control_plane.audit import Statement
    from control_plane.store.database import Database


class ReleaseRow(NamedTuple):
    """A release as stored; `digest` and `length` are of its manifest."""

    path: str
    family: str
    version: str
    number: int
    digest: str
    length: int
    manifest: bytes
    is_withdrawn: bool
    published: float


class Releases:
    """Releases, and the repository that lists them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def files(self) -> dict[str, bytes]:
        """Return the repository as it is now, by file name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(repository_file.c.name, repository_file.c.body)).all()
        return {row.name: row.body for row in rows}

    def replace(
        self,
        files: Mapping[str, bytes],
        now: float,
        *,
        added: ReleaseRow | None = None,
        withdrawn: Collection[str] = (),
        told: Statement | None = None,
    ) -> None:
        """Make `files` the repository, with the release that came with them, in one transaction.

        `told` is for the audit log; without it nobody decided anything.
        """
        with self._database.transaction() as connection:
            _write_files(connection, files, now)
            if added is not None:
                connection.execute(insert(release).values(added._asdict()))
            if withdrawn:
                gone = release.c.path.in_(withdrawn)
                connection.execute(update(release).where(gone).values(is_withdrawn=True))
            if told is not None:
                audit.append(connection, told)

    def get(self, path: str) -> ReleaseRow | None:
        """Return the release that the owners list under `path`."""
        return self._first(release.c.path, path)

    def by_digest(self, digest: str) -> ReleaseRow | None:
        """Return the release whose manifest has this digest."""
        return self._first(release.c.digest, digest)

    def list(self, family: str | None = None) -> list[ReleaseRow]:
        """Return releases, of one family or all, oldest first."""
        statement = select(release).order_by(release.c.family, release.c.number)
        if family is not None:
            statement = statement.where(release.c.family == family)
        with self._database.reading() as connection:
            return [ReleaseRow._make(row) for row in connection.execute(statement).all()]

    def _first(self, column: Column[str], value: str) -> ReleaseRow | None:
        with self._database.reading() as connection:
            row = connection.execute(select(release).where(column == value)).first()
        return None if row is None else ReleaseRow._make(row)


def _write_files(connection: Connection, files: Mapping[str, bytes], now: float) -> None:
    connection.execute(delete(repository_file).where(repository_file.c.name.not_in(list(files))))
    kept = connection.execute(select(repository_file.c.name, repository_file.c.body)).all()
    bodies = {row.name: row.body for row in kept}
    for name, body in files.items():
        if bodies.get(name) != body:
            row = {"name": name, "body": body, "changed": now}
            many.upsert(connection, repository_file, [row])
