"""Keep what a device said of the accelerator of a model: what it took, or why it does not serve."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: the new column may be empty."""
    op.add_column("reported", sa.Column("delegate_reason", sa.String(), nullable=True))
