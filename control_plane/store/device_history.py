"""One device for people who look: its rollouts, what came of its telemetry, how it stands.

Every query is of one device and returns a bounded number of rows. What is wanted of a device, and
what it reported, stands in `devices`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import func, select

from control_plane.rollouts.model import stretches
from control_plane.store import rollout_counts
from control_plane.store.schema import (
    decision,
    deployment,
    prediction_count,
    release,
    rollout,
    segment,
)
from control_plane.store.watch_schema import watch
from firmware_bundles.wire.messages import SegmentKind

if TYPE_CHECKING:
    from control_plane.rollouts.model import Rollout
    from control_plane.store.database import Database

ROLLOUTS_MAX: Final = 8
WINDOWS_MAX: Final = 12
MODELS_MAX: Final = 12


class Place(NamedTuple):
    """Where a device stands in a rollout; `phase` as `stretches` has it, `offered` Unix seconds."""

    status: str
    position: int
    phase: int
    members: int
    generation: int
    previous_path: str | None
    offered: float | None
    superseded_by: str | None


class Window(NamedTuple):
    """A window of statistics that came: so many rows over a time (Unix seconds)."""

    family: str
    version: str | None
    rows: int
    started: float
    ended: float
    received: float


class Received(NamedTuple):
    """Predictions of a model that came from a device, the newest segment at `latest`."""

    family: str
    version: str | None
    model: str
    received: int
    segments: int
    latest: float


class Watched(NamedTuple):
    """How a model's inputs stand on a device against its own reference."""

    family: str
    version: str | None
    state: str
    since: float
    tested: int


class DeviceHistory:
    """Reads one device."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rollout_ids(self, device_id: str) -> list[str]:
        """Return the last rollouts that a device is in, the newest first."""
        query = (
            select(rollout.c.id)
            .join(deployment, deployment.c.rollout_id == rollout.c.id)
            .where(deployment.c.device_id == device_id)
            .order_by(rollout.c.created.desc(), rollout.c.id)
            .limit(ROLLOUTS_MAX)
        )
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def place(self, wanted: Rollout, device_id: str) -> Place:
        """Return where a device that is in a rollout stands there."""
        own = select(func.count()).where(deployment.c.rollout_id == wanted.id)
        with self._database.reading() as connection:
            members = int(connection.execute(own).scalar_one())
            told = deployment.c
            row = connection.execute(
                rollout_counts.from_deployments(
                    wanted,
                    rollout_counts.standing(connection, wanted).label("standing"),
                    told.position,
                    told.generation,
                    told.previous_path,
                    told.offered,
                    told.superseded_by,
                ).where(told.device_id == device_id)
            ).one()
        runs = stretches(wanted, members)
        phase = next(phase for phase, _, end in runs if row.position < end)
        return Place(row.standing, row.position, phase, members, *row[2:])

    def why(self, rollout_id: str) -> list[str]:
        """Return the reasons of the last decision on a rollout."""
        query = select(decision.c.why).where(decision.c.rollout_id == rollout_id)
        last = query.order_by(decision.c.id.desc()).limit(1)
        with self._database.reading() as connection:
            return list(connection.execute(last).scalar_one_or_none() or ())

    def windows(self, device_id: str) -> list[Window]:
        """Return the last windows of a device, the newest first; those that are kept are few."""
        said = segment.c
        query = (
            select(
                said.family, release.c.version, said.rows, said.started, said.ended, said.received
            )
            .outerjoin(release, release.c.digest == said.model)
            .where(said.device_id == device_id, said.kind == SegmentKind.WINDOW.value)
            .order_by(said.ended.desc(), said.received.desc())
            .limit(WINDOWS_MAX)
        )
        with self._database.reading() as connection:
            return [Window._make(row) for row in connection.execute(query)]

    def received(self, device_id: str) -> list[Received]:
        """Return how many predictions came, by model, the last ones first."""
        said = prediction_count.c
        query = (
            select(
                said.family,
                release.c.version,
                said.model,
                said.received,
                said.segments,
                said.latest,
            )
            .outerjoin(release, release.c.digest == said.model)
            .where(said.device_id == device_id)
            .order_by(said.latest.desc())
            .limit(MODELS_MAX)
        )
        with self._database.reading() as connection:
            return [Received._make(row) for row in connection.execute(query)]

    def watched(self, device_id: str) -> list[Watched]:
        """Return how the models stand that sent windows last."""
        said = watch.c
        query = (
            select(said.family, release.c.version, said.state, said.since, said.tested)
            .outerjoin(release, release.c.digest == said.model)
            .where(said.device_id == device_id)
            .order_by(said.until.desc())
            .limit(MODELS_MAX)
        )
        with self._database.reading() as connection:
            return [Watched._make(row) for row in connection.execute(query)]
