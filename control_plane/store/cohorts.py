"""Rows of cohorts: a name and the selector that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from control_plane.audit import SERVICE, Statement
from control_plane.store import audit
from control_plane.store.schema import cohort
from firmware_bundles.errors import ConflictError

if TYPE_CHECKING:
    from control_plane.store.database import Database


class CohortRow(NamedTuple):
    """A cohort as stored."""

    name: str
    selector: str
    created: float


class CohortRows:
    """All cohorts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: CohortRow, by: str = SERVICE) -> None:
        """Store a new cohort, made by the actor `by`. Raises ConflictError if the name is taken."""
        told = {"selector": row.selector}
        try:
            with self._database.transaction() as connection:
                connection.execute(insert(cohort).values(row._asdict()))
                subject = f"cohort/{row.name}"
                made = Statement(row.created, by, "cohort.made", subject, told)
                audit.append(connection, made)
        except IntegrityError as error:
            raise ConflictError(
                f"there is already a cohort {row.name!r}", hint="Choose another name."
            ) from error

    def find(self, name: str) -> CohortRow | None:
        """Return the cohort of this name."""
        with self._database.reading() as connection:
            row = connection.execute(select(cohort).where(cohort.c.name == name)).first()
        return None if row is None else CohortRow._make(row)

    def all(self) -> list[CohortRow]:
        """Return all cohorts by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(cohort).order_by(cohort.c.name)).all()
        return [CohortRow._make(row) for row in rows]
