"""Rows of API tokens. Only digests are stored; texts are never seen here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, func, insert, select

from control_plane.audit import SERVICE, Statement
from control_plane.store import audit
from control_plane.store.schema import api_token
from firmware_bundles.errors import NotFound

if TYPE_CHECKING:
    from control_plane.store.database import Database


class TokenRow(NamedTuple):
    """An API token as stored; without a person it belongs to the one that it is named after."""

    prefix: str
    digest: str
    name: str
    role: str
    created: float
    person: str | None = None

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.person or self.name


class AccessTokens:
    """API tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: TokenRow, by: str = SERVICE) -> None:
        """Store a new token, made by the actor `by`."""
        told = {"name": row.name, "role": row.role, "person": row.owner}
        subject = f"token/{row.prefix}"
        with self._database.transaction() as connection:
            connection.execute(insert(api_token).values(row._asdict()))
            audit.append(connection, Statement(row.created, by, "token.made", subject, told))

    def find(self, prefix: str) -> TokenRow | None:
        """Return the token with this prefix."""
        with self._database.reading() as connection:
            row = connection.execute(select(api_token).where(api_token.c.prefix == prefix)).first()
        return None if row is None else TokenRow._make(row)

    def all(self) -> list[TokenRow]:
        """Return all tokens, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(api_token).order_by(api_token.c.created)).all()
        return [TokenRow._make(row) for row in rows]

    def count(self) -> int:
        """Return how many tokens there are."""
        with self._database.reading() as connection:
            return connection.execute(select(func.count()).select_from(api_token)).scalar_one()

    def delete(self, prefix: str, now: float, by: str = SERVICE) -> None:
        """Withdraw a token, as the actor `by` asks. Raises NotFound."""
        gone = delete(api_token).where(api_token.c.prefix == prefix)
        with self._database.transaction() as connection:
            name = connection.execute(gone.returning(api_token.c.name)).scalar_one_or_none()
            if name is None:
                raise NotFound(f"there is no token with the prefix {prefix!r:.80}")
            subject = f"token/{prefix}"
            told = Statement(now, by, "token.withdrawn", subject, {"name": name})
            audit.append(connection, told)
