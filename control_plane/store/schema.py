"""The tables of the control plane.

Statements stand in the modules beside this one, one for each subject.

Expand first, contract a release later: a column is never renamed or dropped in the release that
stops using it. Times are Unix seconds, JSON columns hold small documents that are never searched by
the planner's hot path.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)
_LEAVES = text("revoked is not null or retiring is not null")

api_token = Table(
    "api_token",
    metadata,
    Column("prefix", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),
    Column("created", Float, nullable=False),
    # Whose it is; empty in rows of a release that did not know: then it is the name.
    Column("person", String, nullable=True),
)

enrolment_token = Table(
    "enrolment_token",
    metadata,
    Column("digest", String, primary_key=True),
    Column("device_id", String, nullable=True),
    Column("labels", JSON, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("expires", Float, nullable=False),
    Column("created_by", String, nullable=False),
)

device = Table(
    "device",
    metadata,
    Column("id", String, primary_key=True),
    Column("public_key_pem", String, nullable=False),
    Column("certificate_serial", String, nullable=False),
    Column("telemetry_secret", LargeBinary, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("inventory", JSON, nullable=False),
    # What it reported, in the form of labels: made with the inventory, for selectors.
    Column("facts", JSON, nullable=False, server_default="{}"),
    Column("agent_version", String, nullable=False, server_default=""),
    Column("enrolled", Float, nullable=False),
    Column("last_seen", Float, nullable=True),
    Column("is_online", Boolean, nullable=False, server_default="0"),
    Column("connection", String, nullable=True),
    Column("buffer", JSON, nullable=True),
    Column("revoked", Float, nullable=True),
    Column("retired", Float, nullable=True),
    # A retirement under way: when it was asked for, until when the device may confirm, and what
    # it said it erased. The generation grows with each and outlives it.
    Column("retiring", Float, nullable=True),
    Column("retire_until", Float, nullable=True),
    Column("retire_generation", BigInteger, nullable=False, server_default="0"),
    Column("erased", Float, nullable=True),
    Column("segments_erased", BigInteger, nullable=True),
    # How often the live session of a device without access is still to be ended.
    Column("evictions_left", Integer, nullable=False, server_default="0"),
    # Those that lost their access, or are about to: few.
    Index("ix_device_leaving", "id", sqlite_where=_LEAVES, postgresql_where=_LEAVES),
)

# Every certificate that a device was given; the text too, so that a repeated request is answered
# with what the first one got.
certificate = Table(
    "certificate",
    metadata,
    Column("serial", String, primary_key=True),
    Column("device_id", String, ForeignKey("device.id"), nullable=False, index=True),
    Column("pem", String, nullable=False),
    Column("issued", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("revoked", Float, nullable=True),
)

# What others saw a device do that it may not; what it refused itself is a detection.
misconduct = Table(
    "misconduct",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("code", String, primary_key=True),
    Column("message", String, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("last", Float, nullable=False),
)

# What the control plane wants of a device; one generation for each change of mind.
desired = Table(
    "desired",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("family", String, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("path", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("length", Integer, nullable=False),
    Column("rollout_id", String, nullable=False),
    Column("arm", String, nullable=False),
    Column("policy", JSON, nullable=False),
    Column("changed", Float, nullable=False),
)

# What the device last said, signed, of each family: the only source of success.
reported = Table(
    "reported",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("family", String, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("state", String, nullable=True),
    Column("rollout_id", String, nullable=True),
    Column("serving_digest", String, nullable=True),
    Column("serving_version", String, nullable=True),
    Column("runtime", String, nullable=True),
    Column("delegate", String, nullable=True),
    Column("delegate_reason", String, nullable=True),
    Column("since", Float, nullable=True),
    Column("answered", BigInteger, nullable=True),
    Column("fault_code", String, nullable=True),
    Column("fault_message", String, nullable=True),
    Column("waits_for", String, nullable=True),
    Column("arm", String, nullable=True),
    Column("received", Float, nullable=False),
    Column("chunk_bytes", BigInteger, nullable=True),
    Column("patch_bytes", BigInteger, nullable=True),
    Column("saved_bytes", BigInteger, nullable=True),
)

report_counter = Table(
    "report_counter",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("incarnation", String, primary_key=True),
    Column("counter", BigInteger, nullable=False),
    # Which incarnation of its device this is, counted in the order of their first reports.
    Column("turn", BigInteger, nullable=False, server_default="0"),
)

detection = Table(
    "detection",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("code", String, primary_key=True),
    Column("message", String, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("last", Float, nullable=False),
)

cohort = Table(
    "cohort",
    metadata,
    Column("name", String, primary_key=True),
    Column("selector", String, nullable=False),
    Column("created", Float, nullable=False),
    Column("listed", JSON(none_as_null=True), nullable=True),
)

# What `shoal apply` made, by the name of its set of files.
declaration = Table(
    "declaration",
    metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("folder", String, nullable=False),
)

release = Table(
    "release",
    metadata,
    Column("path", String, primary_key=True),
    Column("family", String, nullable=False),
    Column("version", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("length", Integer, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("is_withdrawn", Boolean, nullable=False, server_default="0"),
    Column("published", Float, nullable=False),
)

# What was made, or found not worth its bytes (then without content), to come from one release to
# another: digests of manifests, a file by its name, and the digest of that file in the former.
patch = Table(
    "patch",
    metadata,
    Column("source", String, primary_key=True),
    Column("target", String, primary_key=True),
    Column("file", String, primary_key=True),
    Column("source_file", String, nullable=False),
    Column("content", String, nullable=True),
    Column("chunks", JSON, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("full_length", BigInteger, nullable=False),
    Column("made", Float, nullable=False),
)

# The models repository as it is served now, in the names of the TUF specification.
repository_file = Table(
    "repository_file",
    metadata,
    Column("name", String, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("changed", Float, nullable=False),
)

rollout = Table(
    "rollout",
    metadata,
    Column("id", String, primary_key=True),
    Column("family", String, nullable=False),
    Column("release_path", String, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("state", String, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("phase_state", String, nullable=False),
    Column("phase_since", Float, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("created_by", String, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    # Devices that came while it ran, with the last phase that they do not make larger.
    Column("joined", JSON, nullable=False, server_default="[]"),
)

# Who let a phase begin that asks for it; never changed.
approval = Table(
    "approval",
    metadata,
    Column("rollout_id", String, ForeignKey("rollout.id"), primary_key=True),
    Column("phase", Integer, primary_key=True),
    Column("by", String, nullable=False),
    Column("at", Float, nullable=False),
)

# Every decision with its reasons, in order; never changed.
decision = Table(
    "decision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", String, ForeignKey("rollout.id"), nullable=False, index=True),
    Column("generation", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("state", String, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("phase_state", String, nullable=False),
    Column("why", JSON, nullable=False),
    Column("gates", JSON, nullable=False, server_default="[]"),
)

# One row for each device of a rollout. Progress is counted from here and `reported`, never stored.
deployment = Table(
    "deployment",
    metadata,
    Column("rollout_id", String, ForeignKey("rollout.id"), primary_key=True),
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False, server_default="0"),
    Column("revert_generation", BigInteger, nullable=False, server_default="0"),
    Column("previous_path", String, nullable=True),
    Column("offered", Float, nullable=True),
    # What it was offered: to serve, or to answer in the shadow of what serves.
    Column("mode", String, nullable=False, server_default="serve"),
    # The rollout of higher priority that has this device; its generation here is -1 then.
    Column("superseded_by", String, nullable=True),
    # What a wave takes next, and how many are left, without a look at the rows.
    Index("ix_deployment_progress", "rollout_id", "revert_generation", "generation", "position"),
)

# Sealed segments as devices sent them; the key makes every one count once. Predictions have what
# they add up to (see `firmware_bundles.wire.messages.Totals`); other kinds have none.
segment = Table(
    "segment",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("incarnation", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger, nullable=False),
    Column("family", String, nullable=False),
    Column("model", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float, nullable=False),
    Column("received", Float, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("answered", BigInteger, nullable=True),
    Column("latency_us", BigInteger, nullable=True),
    Column("log_latency", BigInteger, nullable=True),
    Column("log_latency2", BigInteger, nullable=True),
    # Its latencies in the bins of `telemetry.latency_bins`; null: it came before they were kept.
    Column("latency_bins", LargeBinary, nullable=True),
    # Of a window: rows with a confidence, and how many of them it promises to be right.
    Column("promised_rows", BigInteger, nullable=True),
    Column("promised_right", Float, nullable=True),
    # 1 once the watch over its device took a window in: both are written in one transaction.
    Column("watched", SmallInteger, nullable=False, server_default="0"),
    Index(
        "ix_segment_shadow",
        "device_id",
        "incarnation",
        sqlite_where=text("kind = 'shadow'"),
        postgresql_where=text("kind = 'shadow'"),
    ),
    Index(
        "ix_segment_unwatched",
        "device_id",
        "family",
        "model",
        sqlite_where=text("kind = 'window' and watched = 0"),
        postgresql_where=text("kind = 'window' and watched = 0"),
    ),
    # Whether `tally` counts it: those that came before there was a tally are counted at their end.
    Column("is_tallied", Boolean, nullable=False, server_default="0"),
    Index("ix_segment_received_kind", "received", "kind"),
)

# Predictions received of each model on each device: the rows of its segments, counted with them.
prediction_count = Table(
    "prediction_count",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("family", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("received", BigInteger, nullable=False),
    Column("segments", BigInteger, nullable=False),
    Column("latest", Float, nullable=False),
)

# How many labels came for a model's predictions on a device, and how many contradicted them.
# The key names the segment whose arrival settled them: the labels', or the predictions' that came
# later. A segment is stored once, so each label is counted once.
label_count = Table(
    "label_count",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("incarnation", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("model", String, primary_key=True, index=True),
    Column("family", String, nullable=False),
    Column("received", Float, nullable=False, index=True),
    Column("labelled", Integer, nullable=False),
    Column("wrong", Integer, nullable=False),
)

# The same labels by segment of the traffic and outcome; `predicted` is -1 for no class.
outcome_count = Table(
    "outcome_count",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("incarnation", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("model", String, primary_key=True, index=True),
    Column("segment", Integer, primary_key=True),
    Column("label", Integer, primary_key=True),
    Column("predicted", Integer, primary_key=True),
    Column("family", String, nullable=False),
    Column("received", Float, nullable=False, index=True),
    Column("count", Integer, nullable=False),
)

# Business values of a model's predictions on a device, keyed as the labels: moments in quanta,
# 2 ** -exponent each.
value_sum = Table(
    "value_sum",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("incarnation", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("model", String, primary_key=True, index=True),
    Column("name", String, primary_key=True),
    Column("exponent", Integer, primary_key=True),
    Column("segment", Integer, primary_key=True),
    Column("family", String, nullable=False),
    Column("received", Float, nullable=False, index=True),
    Column("quantum", Float, nullable=False),
    Column("n", Integer, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("total2", BigInteger, nullable=False),
    Column("minimum", BigInteger, nullable=False),
    Column("maximum", BigInteger, nullable=False),
)

# Of which predictions feedback told what: subject is a business value's name, empty for the label.
# The key makes everything that is told count once, however often it is told.
feedback = Table(
    "feedback",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("incarnation", String, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("subject", String, primary_key=True),
    Column("received", Float, nullable=False, index=True),
)

# What was told of predictions that have not arrived: counted, and deleted, when they do. `label`
# is -1 without one; `brought` lists name, exponent and quanta of business values.
label_pending = Table(
    "label_pending",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("device_id", String, ForeignKey("device.id"), nullable=False),
    Column("incarnation", String, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("label", Integer, nullable=False),
    Column("brought", JSON, nullable=True),
    Column("received", Float, nullable=False),
    Index("ix_label_pending_prediction", "device_id", "incarnation", "sequence"),
)

# Inputs that both a serving model and its shadow answered, keyed as the labels; of the labelled
# ones, how many only one of them got wrong.
pair_count = Table(
    "pair_count",
    metadata,
    Column("device_id", String, ForeignKey("device.id"), primary_key=True),
    Column("incarnation", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("live", String, primary_key=True),
    Column("shadow", String, primary_key=True),
    Column("family", String, nullable=False),
    Column("received", Float, nullable=False, index=True),
    Column("pairs", Integer, nullable=False),
    Column("agreed", Integer, nullable=False),
    Column("labelled", Integer, nullable=False),
    Column("live_only", Integer, nullable=False),
    Column("shadow_only", Integer, nullable=False),
)

# What a metric server answered last to the query of a rollout's gate, or why it did not.
metric_answer = Table(
    "metric_answer",
    metadata,
    Column("rollout_id", String, ForeignKey("rollout.id"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", Float, nullable=True),
    Column("at", Float, nullable=False),
    Column("fault", String, nullable=False),
)

# Who did what, chained by digests; rows are only ever added, which triggers keep.
audit_entry = Table(
    "audit_entry",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String, nullable=False, index=True),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False, index=True),
    Column("details", String, nullable=False),
    Column("previous", String, nullable=False),
    Column("digest", String, nullable=False),
)

# The last entry of the log: one row, for which writers wait.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
)
