"""Keep which patches there are, and what came to devices by patch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: new columns may be empty, so an older release still reads and writes."""
    op.create_table(
        "patch",
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("file", sa.String(), nullable=False),
        sa.Column("source_file", sa.String(), nullable=False),
        sa.Column("content", sa.String(), nullable=True),
        sa.Column("chunks", sa.JSON(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("full_length", sa.BigInteger(), nullable=False),
        sa.Column("made", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("source", "target", "file", name=op.f("pk_patch")),
    )
    for name in ("chunk_bytes", "patch_bytes", "saved_bytes"):
        op.add_column("reported", sa.Column(name, sa.BigInteger(), nullable=True))
