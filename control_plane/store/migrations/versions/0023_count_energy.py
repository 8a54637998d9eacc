"""Count what machines use while a model serves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_NAMES = ("joules", "measured_s")


def upgrade() -> None:
    """Expand only: what was not told is empty, and is not counted."""
    for name in _NAMES:
        op.add_column("service_said", sa.Column(name, sa.BigInteger(), nullable=True))
        told = sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
        op.add_column("service_count", told)
