"""What the fleet says of a rollout, counted: deployments against signed reports, labels by arm.

One expression says where a device stands; counts, lists and reminders all use it. A device counts
as committed only by its own signed report of the very generation that it was offered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, case, func, literal, select

from control_plane.rollouts.model import Counts, FleetView, phase_ends
from control_plane.store import label_sums
from control_plane.store.schema import deployment, desired, device, release, reported, rollout
from firmware_bundles.wire.messages import Arm, DeploymentState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from control_plane.rollouts.model import Rollout

_STATUSES: Final = (
    "planned",
    "waiting",
    "in_progress",
    "committed",
    "differing",
    "failed",
    "rolled_back",
    "reverting",
    "reverted",
    "superseded",
)
_OFFERED: Final = _STATUSES[1:7]
_ENDED: Final = [
    DeploymentState.COMMITTED.value,
    DeploymentState.FAILED.value,
    DeploymentState.ROLLED_BACK.value,
]

CONTROLS_COUNTED_MAX: Final = 1_000
"""Beyond so many, more devices without an offer tell the gates nothing new."""

_candidate: Final = release.alias("candidate")
_previous: Final = release.alias("previous")


class DeploymentRow(NamedTuple):
    """Where one device of a rollout stands."""

    device_id: str
    position: int
    status: str
    generation: int
    previous_path: str | None
    serving_digest: str | None
    fault_code: str | None
    fault_message: str | None


def view(connection: Connection, wanted: Rollout) -> FleetView:
    """Return the counts of every phase, and the labels of both arms since the phase began."""
    ends = phase_ends(wanted.spec, members := _members(connection, wanted))
    planned = [
        _planned(connection, wanted, first, end)
        for first, end in zip((0, *ends), (*ends, members), strict=True)
    ]
    rows = _offered(connection, wanted, ends)
    phases = tuple(
        _counts([row for row in rows if row.in_phase == phase], planned[phase])
        for phase in range(len(ends))
    )
    firsts = [counts.offered_first for counts in phases if counts.offered_first is not None]
    since = phases[wanted.watched].offered_first
    arms = label_sums.count(connection, wanted, since, min(firsts, default=None))
    return FleetView(
        phases=phases,
        candidate=arms[Arm.CANDIDATE],
        control=arms[Arm.CONTROL],
        control_devices=_controls(connection, wanted) if any(planned) else 0,
        members=members,
    )


def _planned(connection: Connection, wanted: Rollout, first: int, end: int) -> int:
    """Count the devices without an offer at positions, by the index alone."""
    query = select(func.count()).where(
        *_without_offer(wanted), deployment.c.position >= first, deployment.c.position < end
    )
    return int(connection.execute(query).scalar_one())


def _without_offer(wanted: Rollout) -> tuple[ColumnElement[bool], ...]:
    told = deployment.c
    return told.rollout_id == wanted.id, told.revert_generation == 0, told.generation == 0


def _controls(connection: Connection, wanted: Rollout) -> int:
    """Count the devices without an offer that serve another model, so far as the gates ask."""
    found = (
        select(literal(1))
        .select_from(deployment)
        .join(rollout, rollout.c.id == deployment.c.rollout_id)
        .join(_candidate, _candidate.c.path == rollout.c.release_path)
        .join(reported, _of_device(reported))
        .where(*_without_offer(wanted), _serves_another())
        .limit(CONTROLS_COUNTED_MAX)
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(found)).scalar_one())


def _offered(connection: Connection, wanted: Rollout, ends: Sequence[int]) -> Sequence[Row[Any]]:
    """Count the devices that ever had an offer, by phase and where they stand."""
    # These labels are no column's name: GROUP BY would prefer the column.
    query = (
        _from_deployments(
            wanted,
            _status().label("status"),
            _phase(ends).label("in_phase"),
            func.count().label("devices"),
            func.sum(case((_previous.c.digest.is_(None), 1), else_=0)).label("stuck"),
            func.min(deployment.c.offered).label("first"),
            func.max(deployment.c.offered).label("last"),
        )
        .where(deployment.c.generation > 0)
        .group_by("status", "in_phase")
    )
    return connection.execute(query).all()


def deployments(connection: Connection, wanted: Rollout) -> list[DeploymentRow]:
    """Return where each device stands, by position."""
    query = _from_deployments(
        wanted,
        deployment.c.device_id,
        deployment.c.position,
        _status().label("status"),
        deployment.c.generation,
        deployment.c.previous_path,
        reported.c.serving_digest,
        reported.c.fault_code,
        reported.c.fault_message,
    ).order_by(deployment.c.position)
    return [DeploymentRow._make(row) for row in connection.execute(query)]


def silent(connection: Connection, wanted: Rollout) -> list[str]:
    """Return those that are online and reported nothing since they were told what to run last."""
    told = case(
        (deployment.c.revert_generation > 0, deployment.c.revert_generation),
        else_=deployment.c.generation,
    )
    every = _from_deployments(wanted, deployment.c.device_id)
    query = every.join(device, device.c.id == deployment.c.device_id).where(
        device.c.is_online,
        deployment.c.generation > 0,
        desired.c.generation == told,
        func.coalesce(reported.c.generation, 0) < told,
    )
    return list(connection.execute(query.order_by(deployment.c.position)).scalars())


def _from_deployments(wanted: Rollout, *columns: Any) -> Select[Any]:  # noqa: ANN401 - columns
    """Select from the rollout's deployments, each with all that is known of its device."""
    return (
        select(*columns)
        .select_from(deployment)
        .join(rollout, rollout.c.id == deployment.c.rollout_id)
        .join(_candidate, _candidate.c.path == rollout.c.release_path)
        .outerjoin(_previous, _previous.c.path == deployment.c.previous_path)
        .outerjoin(desired, _of_device(desired))
        .outerjoin(reported, _of_device(reported))
        .where(deployment.c.rollout_id == wanted.id)
    )


def _of_device(table: Any) -> ColumnElement[bool]:  # noqa: ANN401 - a table
    return and_(table.c.device_id == deployment.c.device_id, table.c.family == rollout.c.family)


def _status() -> ColumnElement[str]:
    told, said = deployment.c, reported.c
    newest = case(
        (told.revert_generation > told.generation, told.revert_generation), else_=told.generation
    )
    is_back = and_(
        said.generation == told.revert_generation,
        said.state.in_(_ENDED),
        said.serving_digest == _previous.c.digest,
    )
    # The first line that fits decides.
    return case(
        (told.generation == 0, "planned"),
        (desired.c.generation > newest, "superseded"),
        (and_(told.revert_generation > 0, is_back), "reverted"),
        (told.revert_generation > 0, "reverting"),
        (func.coalesce(said.generation, 0) != told.generation, "waiting"),
        (
            and_(said.state == "committed", said.serving_digest == _candidate.c.digest),
            "committed",
        ),
        (said.state == "committed", "differing"),
        (said.state == "failed", "failed"),
        (said.state == "rolled_back", "rolled_back"),
        else_="in_progress",
    )


def _serves_another() -> ColumnElement[bool]:
    return reported.c.serving_digest != _candidate.c.digest


def _members(connection: Connection, wanted: Rollout) -> int:
    query = select(func.count()).where(deployment.c.rollout_id == wanted.id)
    return int(connection.execute(query).scalar_one())


def _phase(ends: Sequence[int]) -> ColumnElement[int]:
    """Say to which phase a position belongs; beyond the last one is none."""
    return case(*((deployment.c.position < end, phase) for phase, end in enumerate(ends)), else_=-1)


def _counts(rows: Sequence[Row[Any]], planned: int) -> Counts:
    firsts = [row.first for row in rows if row.first is not None]
    lasts = [row.last for row in rows if row.last is not None]
    return Counts(
        planned=planned,
        **{row.status: row.devices for row in rows},
        stuck=sum(row.stuck for row in rows if row.status in _OFFERED),
        offered_first=min(firsts, default=None),
        offered_last=max(lasts, default=None),
    )
