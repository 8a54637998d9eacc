"""Keep whose a token is: approvals compare persons, who may have several tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: whoever a token was named after is its person."""
    op.add_column("api_token", sa.Column("person", sa.String(), nullable=True))
    token = sa.table("api_token", sa.column("person"), sa.column("name"))
    op.execute(token.update().values(person=token.c.name))
