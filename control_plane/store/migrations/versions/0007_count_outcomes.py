"""Count outcomes by segment, add business values up, and keep of what feedback told."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: new columns may be empty, so an older release still reads and writes."""
    for name in ("answered", "latency_us", "log_latency", "log_latency2"):
        op.add_column("segment", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("label_pending", sa.Column("brought", sa.JSON(), nullable=True))
    _create(
        "outcome_count",
        ("segment", "label", "predicted"),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("label", sa.Integer(), nullable=False),
        sa.Column("predicted", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
    )
    _create(
        "value_sum",
        ("name", "exponent", "segment"),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("exponent", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("quantum", sa.Float(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("total", "total2", "minimum", "maximum")
        ),
    )
    op.create_table(
        "feedback",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("incarnation", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_feedback_device_id")),
        sa.PrimaryKeyConstraint(
            "device_id", "incarnation", "sequence", "subject", name=op.f("pk_feedback")
        ),
    )
    op.create_index(op.f("ix_feedback_received"), "feedback", ["received"], unique=False)


def _create(table: str, more_key: tuple[str, ...], *columns: sa.Column[Any]) -> None:
    op.create_table(
        table,
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("incarnation", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        *columns,
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f(f"fk_{table}_device_id")),
        sa.PrimaryKeyConstraint(
            *("device_id", "incarnation", "kind", "first", "model"),
            *more_key,
            name=op.f(f"pk_{table}"),
        ),
    )
    op.create_index(op.f(f"ix_{table}_model"), table, ["model"], unique=False)
