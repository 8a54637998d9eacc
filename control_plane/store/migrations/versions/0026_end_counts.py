"""Find counts by their age, and remember up to when segments were deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_COUNTS = ("label_count", "outcome_count", "value_sum", "pair_count")


def upgrade() -> None:
    """Expand only: what an older release deleted is not known by its time."""
    for table in _COUNTS:
        op.create_index(f"ix_{table}_received", table, ["received"])
    op.add_column("deleted", sa.Column("until", sa.Float(), nullable=True))
