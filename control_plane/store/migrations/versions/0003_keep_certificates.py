"""Keep each device's certificates, and who was shut out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: new columns may be empty, so an older release still reads and writes."""
    op.add_column("device", sa.Column("revoked", sa.Float(), nullable=True))
    op.add_column("device", sa.Column("retired", sa.Float(), nullable=True))
    op.create_table(
        "certificate",
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("pem", sa.String(), nullable=False),
        sa.Column("issued", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("revoked", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_certificate_device_id")
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificate")),
    )
    op.create_index(op.f("ix_certificate_device_id"), "certificate", ["device_id"], unique=False)
    op.create_table(
        "misconduct",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_misconduct_device_id")),
        sa.PrimaryKeyConstraint("device_id", "code", name=op.f("pk_misconduct")),
    )
