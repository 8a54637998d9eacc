"""Keep retirements under way, and the sessions that are still to be ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: new columns may be empty, so an older release still reads and writes."""
    for name in ("retiring", "retire_until", "erased"):
        op.add_column("device", sa.Column(name, sa.Float(), nullable=True))
    op.add_column("device", sa.Column("segments_erased", sa.BigInteger(), nullable=True))
    for name, kind in (("retire_generation", sa.BigInteger()), ("evictions_left", sa.Integer())):
        op.add_column("device", sa.Column(name, kind, server_default="0", nullable=False))
