"""Keep what the confidences of each window promise: the label-free accuracy by device."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: windows of before have none, and tell nothing of accuracy without labels."""
    op.add_column("segment", sa.Column("promised_rows", sa.BigInteger(), nullable=True))
    op.add_column("segment", sa.Column("promised_right", sa.Float(), nullable=True))
