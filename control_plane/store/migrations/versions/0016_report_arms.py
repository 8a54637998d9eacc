"""Keep the arm that a device reports with its deployment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: who does not know the column leaves it empty."""
    op.add_column("reported", sa.Column("arm", sa.String(), nullable=True))
