"""Keep approvals, and how many devices joined a rollout while it ran."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: an older release takes no device in, and knows no approvals."""
    op.add_column("rollout", sa.Column("joined", sa.JSON(), server_default="[]", nullable=False))
    op.create_table(
        "approval",
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollout.id"], name=op.f("fk_approval_rollout_id")
        ),
        sa.PrimaryKeyConstraint("rollout_id", "phase", name=op.f("pk_approval")),
    )
