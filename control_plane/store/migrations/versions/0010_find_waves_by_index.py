"""Find the devices of a wave by an index that knows who has an offer."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """An older release reads and writes the same rows, only more slowly."""
    op.drop_index("ix_deployment_position", "deployment")
    columns = ["rollout_id", "revert_generation", "generation", "position"]
    op.create_index("ix_deployment_progress", "deployment", columns)
