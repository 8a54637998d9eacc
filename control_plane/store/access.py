"""Rows of API tokens. Only digests are stored; texts are never seen here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, func, insert, select

from control_plane.store.schema import api_token
from firmware_bundles.errors import NotFound

if TYPE_CHECKING:
    from control_plane.store.database import Database


class TokenRow(NamedTuple):
    """An API token as stored."""

    prefix: str
    digest: str
    name: str
    role: str
    created: float


class AccessTokens:
    """API tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: TokenRow) -> None:
        """Store a new token."""
        with self._database.transaction() as connection:
            connection.execute(insert(api_token).values(row._asdict()))

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

    def delete(self, prefix: str) -> None:
        """Withdraw a token. Raises NotFound."""
        with self._database.transaction() as connection:
            found = connection.execute(delete(api_token).where(api_token.c.prefix == prefix))
        if found.rowcount == 0:
            raise NotFound(f"there is no token with the prefix {prefix!r:.80}")
