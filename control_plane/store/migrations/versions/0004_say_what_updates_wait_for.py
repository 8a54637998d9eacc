"""Keep what a device said that its update waits for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: the new column may be empty."""
    op.add_column("reported", sa.Column("waits_for", sa.String(), nullable=True))
