"""The tables of watches over devices, of alerts, and of who is told of them.

They belong to the metadata of `schema`, whose rules hold here too.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    text,
)

from control_plane.store.schema import metadata

# What is known of each model on each device from its windows, and what was last said of it. `body`
# is a watch in its own format, null before the first window and after a commissioning anew; `turn`
# grows with each change; the times of windows are the device's own, but never later than arrival.
watch = Table(
    "watch",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("family", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("turn", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=True),
    Column("state", String, nullable=False, index=True),
    Column("since", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("changed", Float, nullable=True),
    Column("score", Float, nullable=False),
    Column("reference_rows", BigInteger, nullable=False),
    Column("taken", BigInteger, nullable=False),
    Column("late", BigInteger, nullable=False),
    Column("unreadable", BigInteger, nullable=False),
    Column("tested", BigInteger, nullable=False),
    Column("quiet", BigInteger, nullable=False),
    Column("rings", BigInteger, nullable=False),
    Column("findings", JSON, nullable=False),
)

# A matter for somebody; at most one of each key is not resolved. `level` is a count whose moving is
# the matter, `details` the evidence.
alert = Table(
    "alert",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("key", String, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("summary", String, nullable=False),
    Column("raised", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("notified", Float, nullable=False),
    Column("reminders", Integer, nullable=False),
    Column("device_id", String, nullable=True),
    Column("family", String, nullable=True),
    Column("model", String, nullable=True),
    Column("cohort", String, nullable=True),
    Column("level", BigInteger, nullable=True),
    Column("details", JSON, nullable=False),
    Column("acknowledged", Float, nullable=True),
    Column("acknowledged_by", String, nullable=True),
    Column("note", String, nullable=False),
    Column("resolved", Float, nullable=True),
    Index(
        "uq_alert_active",
        "key",
        unique=True,
        sqlite_where=text("state <> 'resolved'"),
        postgresql_where=text("state <> 'resolved'"),
    ),
    sqlite_autoincrement=True,
)

# Who is told of alerts; `dead` and `delivered` count events for good.
webhook = Table(
    "webhook",
    metadata,
    Column("name", String, primary_key=True),
    Column("url", String, nullable=False),
    Column("secret", String, nullable=False),
    Column("kinds", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("created_by", String, nullable=False),
    Column("delivered", BigInteger, nullable=False, server_default="0"),
    Column("dead", BigInteger, nullable=False, server_default="0"),
    Column("last_delivered", Float, nullable=True),
    Column("last_error", String, nullable=True),
)

# Events on their way, one row for each webhook that is to have one; without `due` it is dead.
delivery = Table(
    "delivery",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("webhook", String, ForeignKey("webhook.name"), nullable=False, index=True),
    Column("event_id", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due", Float, nullable=True, index=True),
    Column("error", String, nullable=True),
)
