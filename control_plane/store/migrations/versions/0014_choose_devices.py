"""Keep lists of devices, facts in the form of labels, and priorities."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only; to an older release a list is a selector that takes nobody."""
    op.add_column("cohort", sa.Column("listed", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("device", sa.Column("facts", sa.JSON(), server_default="{}", nullable=False))
    op.add_column(
        "rollout", sa.Column("priority", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("deployment", sa.Column("superseded_by", sa.String(), nullable=True))
