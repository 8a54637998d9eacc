"""Count pairs of live and mirrored answers, and keep what metric servers say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_KEY = ("device_id", "incarnation", "kind", "first", "live", "shadow")
_COUNTS = ("pairs", "agreed", "labelled", "live_only", "shadow_only")


def upgrade() -> None:
    """Expand only; pairs that were stored before are not counted."""
    kinds = {"first": sa.BigInteger()}
    op.create_table(
        "pair_count",
        *(sa.Column(name, kinds.get(name, sa.String()), nullable=False) for name in _KEY),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _COUNTS),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name="fk_pair_count_device_id_device"
        ),
        sa.PrimaryKeyConstraint(*_KEY, name="pk_pair_count"),
    )
    op.create_table(
        "metric_answer",
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("fault", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollout.id"], name="fk_metric_answer_rollout_id_rollout"
        ),
        sa.PrimaryKeyConstraint("rollout_id", "name", name="pk_metric_answer"),
    )
    op.create_index(
        "ix_segment_shadow",
        "segment",
        ["device_id", "incarnation"],
        sqlite_where=sa.text("kind = 'shadow'"),
        postgresql_where=sa.text("kind = 'shadow'"),
    )
