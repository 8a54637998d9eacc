"""Keep which cohorts and rollouts a folder of files made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: what was made before is nobody's."""
    op.create_table(
        "declaration",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("kind", "name", "folder")),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_declaration"),
    )
