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
    LargeBinary,
    String,
    Table,
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
