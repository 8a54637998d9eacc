"""Keep alerts, who is told of them, and what is still to be delivered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_ACTIVE = "state <> 'resolved'"


def upgrade() -> None:
    """Expand only: an older release knows nothing of these tables."""
    _create_alerts()
    _create_webhooks()


def _create_alerts() -> None:
    op.create_table(
        "alert",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("key", "kind", "state")),
        sa.Column("summary", sa.String(), nullable=False),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("raised", "seen", "notified")),
        sa.Column("reminders", sa.Integer(), nullable=False),
        *(
            sa.Column(name, sa.String(), nullable=True)
            for name in ("device_id", "family", "model", "cohort")
        ),
        sa.Column("level", sa.BigInteger(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("acknowledged", sa.Float(), nullable=True),
        sa.Column("acknowledged_by", sa.String(), nullable=True),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("resolved", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_alert"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alert_key", "alert", ["key"])
    op.create_index("ix_alert_state", "alert", ["state"])
    active = sa.text(_ACTIVE)
    op.create_index(
        "uq_alert_active",
        "alert",
        ["key"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhook",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("name", "url", "secret")),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
            for name in ("delivered", "dead")
        ),
        sa.Column("last_delivered", sa.Float(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_webhook"),
    )
    op.create_table(
        "delivery",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("webhook", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due", sa.Float(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["webhook"], ["webhook.name"], name="fk_delivery_webhook"),
        sa.PrimaryKeyConstraint("number", name="pk_delivery"),
    )
    op.create_index("ix_delivery_webhook", "delivery", ["webhook"])
    op.create_index("ix_delivery_due", "delivery", ["due"])
