"""Keep the order in which a device's incarnations began, so that an ended one is not believed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: an older release must be able to read the result."""
    turn = sa.Column("turn", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("report_counter", turn)
