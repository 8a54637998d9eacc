"""Keep what is known of each device from its windows, and which windows were taken in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_PENDING = "kind = 'window' and watched = 0"


def upgrade() -> None:
    """Expand only: an older release stores windows that wait until they are taken in."""
    op.add_column(
        "segment", sa.Column("watched", sa.SmallInteger(), server_default="0", nullable=False)
    )
    op.create_index(
        "ix_segment_unwatched",
        "segment",
        ["device_id", "family", "model"],
        sqlite_where=sa.text(_PENDING),
        postgresql_where=sa.text(_PENDING),
    )
    op.create_table(
        "watch",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("since", "until")),
        sa.Column("changed", sa.Float(), nullable=True),
        sa.Column("score", sa.Float(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in (
                "reference_rows", "taken", "late", "unreadable", "tested", "quiet", "rings",
            )
        ),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name="fk_watch_device_id"),
        sa.PrimaryKeyConstraint("device_id", "family", "model", name="pk_watch"),
    )  # fmt: skip
    op.create_index("ix_watch_state", "watch", ["state"])
