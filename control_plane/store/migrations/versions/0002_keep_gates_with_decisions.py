"""Keep what the gates found with each decision."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_gates"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: an older release must be able to read the result."""
    column = sa.Column("gates", sa.JSON(), server_default="[]", nullable=False)
    op.add_column("decision", column)
