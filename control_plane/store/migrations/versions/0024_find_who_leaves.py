"""Find the devices that leave by an index, and leave room for what changes with each report."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_LEAVING = sa.text("revoked is not null or retiring is not null")
_OFTEN_CHANGED = ("device", "reported", "report_counter", "service_said")
_FILLED_PERCENT = 80


def upgrade() -> None:
    """An older release reads and writes the same rows, only more slowly."""
    op.create_index(
        "ix_device_leaving", "device", ["id"], sqlite_where=_LEAVING, postgresql_where=_LEAVING
    )
    if op.get_bind().dialect.name == "postgresql":
        # A row that finds room on its page is changed without a change of its indexes.
        for table in _OFTEN_CHANGED:
            op.execute(f"alter table {table} set (fillfactor = {_FILLED_PERCENT})")
