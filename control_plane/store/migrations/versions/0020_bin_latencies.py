"""Keep the latencies of each segment in narrow bins, for percentiles by device."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: segments of before have none, and tell nothing of percentiles."""
    op.add_column("segment", sa.Column("latency_bins", sa.LargeBinary(), nullable=True))
