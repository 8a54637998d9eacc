"""Count what a serving model answered and failed, and the deaths of its worker."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_KEY = ("device_id", "family", "model", "span")


def upgrade() -> None:
    """Expand only: what was not told is empty, and is not counted."""
    op.create_table(
        "service_said",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("device_id", "family")),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("answered", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=True),
        sa.Column("deaths", sa.BigInteger(), nullable=True),
        sa.Column("received", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name="fk_service_said_device_id_device"
        ),
        sa.PrimaryKeyConstraint("device_id", "family", name="pk_service_said"),
    )
    kinds = {"span": sa.BigInteger()}
    op.create_table(
        "service_count",
        *(sa.Column(name, kinds.get(name, sa.String()), nullable=False) for name in _KEY),
        sa.Column("received", sa.Float(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("deaths", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name="fk_service_count_device_id_device"
        ),
        sa.PrimaryKeyConstraint(*_KEY, name="pk_service_count"),
    )
    op.create_index("ix_service_count_received", "service_count", ["received"])
