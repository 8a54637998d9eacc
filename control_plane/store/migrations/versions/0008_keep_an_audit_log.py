"""Keep an audit log, whose rows are only ever added."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_GENESIS: Final = "0" * 64
# Against mistakes and against who has only SQL; the chain is against who can drop these.
_SQLITE: Final = (
    "CREATE TRIGGER audit_entry_no_{verb} BEFORE {verb} ON audit_entry "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is only ever added to'); END"
)
_POSTGRESQL_FUNCTION: Final = (
    "CREATE FUNCTION audit_entry_keep() RETURNS trigger LANGUAGE plpgsql AS $$ "
    "BEGIN RAISE EXCEPTION 'the audit log is only ever added to'; END $$"
)
_POSTGRESQL_TRIGGER: Final = (
    "CREATE TRIGGER audit_entry_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_keep()"
)


def upgrade() -> None:
    """Expand only: an older release does not know the tables, and tells nothing."""
    op.create_table(
        "audit_entry",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("details", sa.String(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_entry")),
    )
    for name in ("actor", "subject"):
        op.create_index(op.f(f"ix_audit_entry_{name}"), "audit_entry", [name], unique=False)
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.bulk_insert(head, [{"id": 1, "number": 0, "digest": _GENESIS}])
    for statement in _triggers(op.get_bind().dialect.name):
        op.execute(statement)


def _triggers(dialect: str) -> tuple[str, ...]:
    if dialect == "postgresql":
        return (_POSTGRESQL_FUNCTION, _POSTGRESQL_TRIGGER)
    return tuple(_SQLITE.format(verb=verb) for verb in ("UPDATE", "DELETE"))
