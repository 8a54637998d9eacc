"""Sum segments up by hour and day, and keep which ones there were when they are deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_LATENCY_COLUMNS = 46


def upgrade() -> None:
    """Expand only: new columns have defaults, so an older release still reads and writes."""
    op.add_column(
        "segment", sa.Column("is_tallied", sa.Boolean(), server_default="0", nullable=False)
    )
    op.create_index("ix_segment_received_kind", "segment", ["received", "kind"])
    op.drop_index("ix_segment_received", "segment")
    names = ("device_id", "family", "model", "arm", "kind")
    op.create_table(
        "tally",
        sa.Column("span", sa.String(), nullable=False),
        sa.Column("started", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in names),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("segments", "rows", "answered", "latency_us")
        ),
        *(
            sa.Column(f"latency_{place:02d}", sa.BigInteger(), server_default="0", nullable=False)
            for place in range(_LATENCY_COLUMNS)
        ),
        _of_device("tally"),
        sa.PrimaryKeyConstraint("span", "started", *names, name=op.f("pk_tally")),
    )
    op.create_table(
        "window_day",
        sa.Column("started", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in names[:3]),
        sa.Column("windows", sa.Integer(), nullable=False),
        sa.Column("unreadable", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        _of_device("window_day"),
        sa.PrimaryKeyConstraint("started", *names[:3], name=op.f("pk_window_day")),
    )
    keys = ("device_id", "incarnation", "kind", "model")
    op.create_table(
        "segment_past",
        *(sa.Column(name, sa.String(), nullable=False) for name in keys),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        _of_device("segment_past"),
        sa.PrimaryKeyConstraint(*keys, "first", name=op.f("pk_segment_past")),
    )
    op.create_index(op.f("ix_segment_past_received"), "segment_past", ["received"])
    op.create_table(
        "deleted",
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("latest", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("what", name=op.f("pk_deleted")),
    )


def _of_device(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_device_id")
    return sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=name)
