"""Keep whether a device was offered a release to serve, or in the shadow of what serves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: whatever was offered before was to serve."""
    op.add_column(
        "deployment", sa.Column("mode", sa.String(), server_default="serve", nullable=False)
    )
