"""The tables of what is kept of segments when they are gone: sums, sketches, which ones there were.

They are in the same metadata as those of `schema`, under the same rules. A sum is never of anything
that is counted in another row: hours and days, and windows and days, part what there is.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, LargeBinary, String, Table

from control_plane.store.schema import metadata
from control_plane.telemetry import latency

LATENCY_COLUMNS = tuple(f"latency_{place:02d}" for place in range(latency.BUCKETS))

# What came within an hour (`span` is hour), by when it arrived; or, once these rows were summed up
# and deleted, a day (`span` is day) that begins at midnight UTC. `answered` are the predictions
# that the rows stand for, `latency_us` the sum over them; the histogram counts the rows themselves.
tally = Table(
    "tally",
    metadata,
    Column("span", String, primary_key=True),
    Column("started", BigInteger, primary_key=True),
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("family", String, primary_key=True),
    Column("model", String, primary_key=True),
    # Which side of a rollout's comparison the device was on, empty if it was on none.
    Column("arm", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("segments", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("answered", BigInteger, nullable=False),
    Column("latency_us", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in LATENCY_COLUMNS),
)

# The exact sum of a device's windows that came on one day and are deleted. `unreadable` windows had
# no baseline, or did not fit it: they are only counted.
window_day = Table(
    "window_day",
    metadata,
    Column("started", BigInteger, primary_key=True),
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("family", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("windows", Integer, nullable=False),
    Column("unreadable", Integer, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=True),
)

# Which segments there were, those that follow each other joined: one that comes again later is
# known, and counts no more.
segment_past = Table(
    "segment_past",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("incarnation", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger, nullable=False),
    Column("received", Float, nullable=False, index=True),
)

# How many rows retention deleted, by what they were, and when last; `until` is when the newest of
# them came.
deleted = Table(
    "deleted",
    metadata,
    Column("what", String, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("latest", Float, nullable=False),
    Column("until", Float, nullable=True),
)

# What reports tell of the model that served, summed up in spans of time: requests that it took, how
# many of them failed by its fault, seconds of service, and the worker's deaths in them; and the
# joules that the machine used in `measured_s` seconds, of those that its platform told.
service_count = Table(
    "service_count",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("family", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("span", BigInteger, primary_key=True),
    Column("received", Float, nullable=False, index=True),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("deaths", BigInteger, nullable=False),
    Column("joules", BigInteger, nullable=False, server_default="0"),
    Column("measured_s", BigInteger, nullable=False, server_default="0"),
)

# The counts that were last told, to which the next ones are compared; null: not told.
service_said = Table(
    "service_said",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("family", String, primary_key=True),
    Column("model", String, nullable=False),
    Column("since", Float, nullable=False),
    Column("answered", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=True),
    Column("deaths", BigInteger, nullable=True),
    Column("joules", BigInteger, nullable=True),
    Column("measured_s", BigInteger, nullable=True),
    Column("received", Float, nullable=False),
)
