"""Which cohorts and rollouts `shoal apply` made, by the name of the set of files that did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sqlalchemy import select

from control_plane.audit import SERVICE, Statement
from control_plane.store import audit, many
from control_plane.store.schema import declaration

if TYPE_CHECKING:
    from control_plane.store.database import Database

Kind = Literal["cohort", "rollout"]


class Declarations:
    """What belongs to sets of files; what people made belongs to none."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, folder: str, kind: Kind, name: str, now: float, by: str = SERVICE) -> None:
        """Note that something was made by a set of files; the last one that did has it."""
        row = {"kind": kind, "name": name, "folder": folder}
        with self._database.transaction() as connection:
            many.upsert(connection, declaration, [row])
            subject, told = f"{kind}/{name}", {"set": folder}
            audit.append(connection, Statement(now, by, "declaration.noted", subject, told))

    def names(self, folder: str, kind: Kind) -> list[str]:
        """Return the names of what a set of files made, in order."""
        query = select(declaration.c.name).where(
            declaration.c.folder == folder, declaration.c.kind == kind
        )
        with self._database.reading() as connection:
            return list(connection.execute(query.order_by(declaration.c.name)).scalars())
