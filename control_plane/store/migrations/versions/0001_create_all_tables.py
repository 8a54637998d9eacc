"""Create all tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: an older release must be able to read the result."""
    _create_access()
    _create_devices()
    _create_statements()
    _create_releases()
    _create_rollouts()
    _create_telemetry()
    _create_labels()


def _create_access() -> None:
    """Who may ask, and who may become a device."""
    op.create_table(
        "api_token",
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_api_token")),
    )
    op.create_table(
        "enrolment_token",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_enrolment_token")),
    )


def _create_devices() -> None:
    """Devices and named sets of them."""
    op.create_table(
        "device",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("public_key_pem", sa.String(), nullable=False),
        sa.Column("certificate_serial", sa.String(), nullable=False),
        sa.Column("telemetry_secret", sa.LargeBinary(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("inventory", sa.JSON(), nullable=False),
        sa.Column("agent_version", sa.String(), server_default="", nullable=False),
        sa.Column("enrolled", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=True),
        sa.Column("is_online", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("connection", sa.String(), nullable=True),
        sa.Column("buffer", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
    )
    op.create_table(
        "cohort",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("selector", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cohort")),
    )


def _create_statements() -> None:
    """What is wanted of devices, and what they said."""
    op.create_table(
        "desired",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("changed", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_desired_device_id")),
        sa.PrimaryKeyConstraint("device_id", "family", name=op.f("pk_desired")),
    )
    op.create_table(
        "reported",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=True),
        sa.Column("rollout_id", sa.String(), nullable=True),
        sa.Column("serving_digest", sa.String(), nullable=True),
        sa.Column("serving_version", sa.String(), nullable=True),
        sa.Column("runtime", sa.String(), nullable=True),
        sa.Column("delegate", sa.String(), nullable=True),
        sa.Column("since", sa.Float(), nullable=True),
        sa.Column("answered", sa.BigInteger(), nullable=True),
        sa.Column("fault_code", sa.String(), nullable=True),
        sa.Column("fault_message", sa.String(), nullable=True),
        sa.Column("received", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_reported_device_id")),
        sa.PrimaryKeyConstraint("device_id", "family", name=op.f("pk_reported")),
    )
    op.create_table(
        "report_counter",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("incarnation", sa.String(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_report_counter_device_id")
        ),
        sa.PrimaryKeyConstraint("device_id", "incarnation", name=op.f("pk_report_counter")),
    )
    op.create_table(
        "detection",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_detection_device_id")),
        sa.PrimaryKeyConstraint("device_id", "code", name=op.f("pk_detection")),
    )


def _create_releases() -> None:
    """The models repository."""
    op.create_table(
        "release",
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("is_withdrawn", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("published", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_release")),
        sa.UniqueConstraint("digest", name=op.f("uq_release_digest")),
    )
    op.create_table(
        "repository_file",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("changed", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_repository_file")),
    )


def _create_rollouts() -> None:
    """Rollouts and their decisions."""
    op.create_table(
        "rollout",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("release_path", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("phase_state", sa.String(), nullable=False),
        sa.Column("phase_since", sa.Float(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout")),
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("phase", sa.Integer(), nullable=False),
        sa.Column("phase_state", sa.String(), nullable=False),
        sa.Column("why", sa.JSON(), nullable=False),
        sa.Column("gates", sa.JSON(), server_default="[]", nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollout.id"], name=op.f("fk_decision_rollout_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
    )
    op.create_index(op.f("ix_decision_rollout_id"), "decision", ["rollout_id"], unique=False)
    op.create_table(
        "deployment",
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("revert_generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("previous_path", sa.String(), nullable=True),
        sa.Column("offered", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_deployment_device_id")),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollout.id"], name=op.f("fk_deployment_rollout_id")
        ),
        sa.PrimaryKeyConstraint("rollout_id", "device_id", name=op.f("pk_deployment")),
    )
    op.create_index(
        "ix_deployment_position", "deployment", ["rollout_id", "position"], unique=False
    )


def _create_telemetry() -> None:
    """What devices sent."""
    op.create_table(
        "segment",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("incarnation", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("started", sa.Float(), nullable=False),
        sa.Column("ended", sa.Float(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_segment_device_id")),
        sa.PrimaryKeyConstraint(
            "device_id", "incarnation", "kind", "first", name=op.f("pk_segment")
        ),
    )
    op.create_index(op.f("ix_segment_received"), "segment", ["received"], unique=False)
    op.create_table(
        "prediction_count",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("segments", sa.BigInteger(), nullable=False),
        sa.Column("latest", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_prediction_count_device_id")
        ),
        sa.PrimaryKeyConstraint("device_id", "family", "model", name=op.f("pk_prediction_count")),
    )


def _create_labels() -> None:
    """How right the predictions were."""
    op.create_table(
        "label_count",
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("incarnation", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("wrong", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_label_count_device_id")
        ),
        sa.PrimaryKeyConstraint(
            "device_id", "incarnation", "kind", "first", "model", name=op.f("pk_label_count")
        ),
    )
    op.create_index(op.f("ix_label_count_model"), "label_count", ["model"], unique=False)
    op.create_table(
        "label_pending",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("incarnation", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.Integer(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_label_pending_device_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_pending")),
    )
    op.create_index(
        "ix_label_pending_prediction",
        "label_pending",
        ["device_id", "incarnation", "sequence"],
        unique=False,
    )
