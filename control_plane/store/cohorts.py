"""Rows of cohorts: a name, and the selector or the devices that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from control_plane.audit import SERVICE, Statement
from control_plane.rollouts.model import OPEN_STATES
from control_plane.store import audit, many
from control_plane.store.schema import cohort, declaration, rollout
from firmware_bundles.errors import ConflictError, NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from control_plane.store.database import Database

# What a list has for a selector in the database: an earlier release, which knows no lists, must
# not take it for one of all devices.
_NOBODY: Final = "fact/shoal.listed"


class CohortRow(NamedTuple):
    """A cohort as stored; `listed` are its devices where it is no selector."""

    name: str
    selector: str
    created: float
    listed: tuple[str, ...] | None = None


class CohortRows:
    """All cohorts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: CohortRow, by: str = SERVICE) -> None:
        """Store a new cohort, made by the actor `by`. Raises ConflictError if the name is taken."""
        try:
            with self._database.transaction() as connection:
                connection.execute(insert(cohort).values(_stored(row)))
                audit.append(connection, _told(row, "cohort.made", by))
        except IntegrityError as error:
            raise ConflictError(
                f"there is already a cohort {row.name!r}", hint="Choose another name."
            ) from error

    def put(self, row: CohortRow, by: str = SERVICE) -> None:
        """Store a cohort, in place of what has its name; the same again changes nothing."""
        with self._database.transaction() as connection:
            known = _find(connection, row.name)
            if known is None:
                connection.execute(insert(cohort).values(_stored(row)))
                audit.append(connection, _told(row, "cohort.made", by))
            elif (known.selector, known.listed) != (row.selector, row.listed):
                many.upsert(connection, cohort, [_stored(row) | {"created": known.created}])
                audit.append(connection, _told(row, "cohort.changed", by))

    def delete(self, name: str, now: float, by: str = SERVICE) -> None:
        """Forget a cohort. Raises NotFound, ConflictError while an open rollout goes by it."""
        with self._database.transaction() as connection:
            if _find(connection, name) is None:
                raise NotFound(f"there is no cohort {name!r:.80}")
            if user := _user(connection, name):
                raise ConflictError(
                    f"the open rollout {user} goes by the cohort {name}",
                    hint="Wait for it to end, or abort it.",
                )
            connection.execute(delete(cohort).where(cohort.c.name == name))
            # Who makes one of this name by hand later has not made it from a file.
            made = (declaration.c.kind == "cohort") & (declaration.c.name == name)
            connection.execute(delete(declaration).where(made))
            audit.append(connection, Statement(now, by, "cohort.deleted", f"cohort/{name}"))

    def find(self, name: str) -> CohortRow | None:
        """Return the cohort of this name."""
        with self._database.reading() as connection:
            return _find(connection, name)

    def all(self) -> list[CohortRow]:
        """Return all cohorts by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(cohort).order_by(cohort.c.name)).all()
        return [_loaded(row) for row in rows]


def _find(connection: Connection, name: str) -> CohortRow | None:
    row = connection.execute(select(cohort).where(cohort.c.name == name)).first()
    return None if row is None else _loaded(row)


def _user(connection: Connection, name: str) -> str | None:
    """Return an open rollout whose file names a cohort."""
    query = select(rollout.c.id, rollout.c.spec).where(rollout.c.state.in_(sorted(OPEN_STATES)))
    for row in connection.execute(query):
        named = {row.spec["cohort"], *row.spec.get("exclude", {}).get("cohorts", ())}
        if name in named:
            return str(row.id)
    return None


def _loaded(row: Any) -> CohortRow:  # noqa: ANN401 - a row of `cohort`
    if row.listed is None:
        return CohortRow(row.name, row.selector, row.created)
    return CohortRow(row.name, "", row.created, tuple(row.listed))


def _stored(row: CohortRow) -> dict[str, Any]:
    if row.listed is None:
        return row._asdict()
    return row._asdict() | {"selector": _NOBODY, "listed": list(row.listed)}


def _told(row: CohortRow, action: str, by: str) -> Statement:
    told = {"selector": row.selector} if row.listed is None else {"listed": row.listed}
    return Statement(row.created, by, action, f"cohort/{row.name}", told)
