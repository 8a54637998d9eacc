"""What the fleet says of a rollout, counted: deployments against signed reports, labels by arm.

One expression says where a device stands; counts, lists and reminders all use it. A device counts
as committed only by its own signed report of the very generation that it was offered.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, case, func, literal, or_, select

from control_plane.rollouts.model import (
    Counts,
    FleetView,
    offering_phase,
    shadows_now,
    stretches,
)
from control_plane.store import evidence, label_sums
from control_plane.store.dialects import room_to_join, row_by_row
from control_plane.store.rollout_rivals import LOST
from control_plane.store.schema import deployment, desired, device, release, reported, rollout
from firmware_bundles.windows import UTC_OFFSET
from firmware_bundles.wire.messages import Arm, DeploymentState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from control_plane.rollouts.model import Rollout

    Runs = Sequence[tuple[int, int, int]]

_STATUSES: Final = (
    "planned",
    "waiting",
    "in_progress",
    "shadowing",
    "committed",
    "differing",
    "failed",
    "rolled_back",
    "reverting",
    "reverted",
    "superseded",
)
_OFFERED: Final = _STATUSES[1:8]
_UNFINISHED: Final = _STATUSES[1:3]
_BROKEN: Final = ("differing", "failed", "rolled_back")
_FINISHED: Final = ("committed", "shadowing", *_BROKEN)
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
    room_to_join(connection)
    members = _members(connection, wanted)
    runs = stretches(wanted, members)
    planned = Counter[int]()
    for phase, first, end in runs:
        planned[phase] += _planned(connection, wanted, first, end)
    rows = _offered(connection, wanted, runs)
    phases = tuple(
        _counts([row for row in rows if row.in_phase == phase], planned[phase])
        for phase in range(len(wanted.spec.course()))
    )
    firsts = [counts.offered_first for counts in phases if counts.offered_first is not None]
    since = _since(wanted, phases)
    begun = min(firsts, default=None)
    arms = label_sums.count(connection, wanted, since, begun)
    mirroring = sum(row.others for row in rows if row.status == "planned")
    controls = mirroring
    is_away = False
    if planned.total():
        controls += _controls(connection, wanted, since)
        is_away = not controls and _controls(connection, wanted, None) > 0
    return FleetView(
        phases=phases,
        candidate=arms[Arm.CANDIDATE],
        control=arms[Arm.CONTROL],
        control_devices=controls,
        is_control_away=is_away,
        members=members,
        later=_counts([row for row in rows if row.in_phase == len(phases)], planned[len(phases)]),
        bytes=sum(row.bytes for row in rows),
        ended_bytes=sum(row.bytes for row in rows if row.status in _FINISHED),
        offsets=_offsets(connection, wanted, runs, offering_phase(wanted, phases)),
        evidence=evidence.gather(connection, wanted, since, begun),
    )


def _since(wanted: Rollout, phases: Sequence[Counts]) -> float | None:
    """Return since when evidence counts: the first offer of the phase that is watched.

    One that reaches nobody new, as shares of a small fleet may not, goes on with that before it.
    """
    for counts in reversed(phases[: wanted.watched + 1]):
        if counts.offered_first is not None or counts.planned:
            return counts.offered_first
    return None


def _planned(connection: Connection, wanted: Rollout, first: int, end: int) -> int:
    """Count the devices without an offer at positions, by the index alone."""
    query = select(func.count()).where(
        *_without_offer(wanted), deployment.c.position >= first, deployment.c.position < end
    )
    return int(connection.execute(query).scalar_one())


def _without_offer(wanted: Rollout) -> tuple[ColumnElement[bool], ...]:
    told = deployment.c
    return told.rollout_id == wanted.id, told.revert_generation == 0, told.generation == 0


def _controls(connection: Connection, wanted: Rollout, since: float | None) -> int:
    """Count the devices without an offer that serve another model, so far as the gates ask.

    Only those that could have had the offer count: they are online, or were seen `since` the
    phase's first offer; before that, all do.
    """
    is_reachable = or_(device.c.is_online, device.c.last_seen >= (since or 0.0))
    found = (
        select(literal(1))
        .select_from(deployment)
        .join(rollout, rollout.c.id == deployment.c.rollout_id)
        .join(_candidate, _candidate.c.path == rollout.c.release_path)
        .join(reported, _of_device(reported))
        .join(device, device.c.id == deployment.c.device_id)
        .where(*_without_offer(wanted), _serves_another(), is_reachable)
        .limit(CONTROLS_COUNTED_MAX)
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(found)).scalar_one())


def _offered(connection: Connection, wanted: Rollout, runs: Runs) -> Sequence[Row[Any]]:
    """Count the devices that had an offer, or never will, by phase and where they stand."""
    told, said = deployment.c, reported.c
    fetched = func.coalesce(said.chunk_bytes, 0) + func.coalesce(said.patch_bytes, 0)
    devices = from_deployments(
        wanted,
        _status(wanted, runs).label("status"),
        _phase(runs).label("in_phase"),
        case((_has_no_way_back(), 1), else_=0).label("is_stuck"),
        case((_serves_another(), 1), else_=0).label("is_other"),
        case((told.offered.is_(None), 1), else_=0).label("is_lost"),
        case((said.generation == told.generation, fetched), else_=0).label("bytes"),
        told.offered,
    ).where(told.generation != 0)
    each = row_by_row(connection, devices, told.device_id).c
    query = select(
        each.status,
        each.in_phase,
        func.count().label("devices"),
        func.sum(each.is_stuck).label("stuck"),
        func.sum(each.is_other).label("others"),
        func.sum(each.is_lost).label("lost"),
        func.sum(each.bytes).label("bytes"),
        func.min(each.offered).label("first"),
        func.max(each.offered).label("last"),
    ).group_by(each.status, each.in_phase)
    return connection.execute(query).all()


def _offsets(
    connection: Connection, wanted: Rollout, runs: Runs, phase: int
) -> tuple[tuple[int | None, int], ...]:
    """Count the planned devices of a phase with a window by the offset of their local time.

    After the end these are the ones that came later.
    """
    if wanted.spec.course()[phase].window is None:
        return ()
    offset = device.c.inventory[UTC_OFFSET].as_integer()
    query = (
        from_deployments(wanted, offset.label("ahead"), func.count().label("devices"))
        .join(device, device.c.id == deployment.c.device_id)
        .where(
            _phase(runs) == (phase if wanted.is_open else len(wanted.spec.course())),
            _status(wanted, runs) == "planned",
        )
        .group_by("ahead")
        .order_by("ahead")
    )
    return tuple((row.ahead, row.devices) for row in connection.execute(query))


def deployments(
    connection: Connection, wanted: Rollout, after: int = -1, limit: int | None = None
) -> list[DeploymentRow]:
    """Return where devices stand, at most `limit` of those at positions after one, in order."""
    runs = stretches(wanted, _members(connection, wanted))
    query = from_deployments(
        wanted,
        deployment.c.device_id,
        deployment.c.position,
        _status(wanted, runs).label("status"),
        deployment.c.generation,
        deployment.c.previous_path,
        reported.c.serving_digest,
        reported.c.fault_code,
        reported.c.fault_message,
    ).where(deployment.c.position > after)
    query = query.order_by(deployment.c.position)
    if limit is not None:
        # Only the rows of the page are joined: where it ends, the index of positions tells.
        own = deployment.c.rollout_id == wanted.id, deployment.c.position > after
        last = select(deployment.c.position).where(*own).order_by(deployment.c.position)
        last = last.offset(limit - 1).limit(1)
        end = connection.execute(last).scalar_one_or_none()
        query = query if end is None else query.where(deployment.c.position <= end)
        query = query.limit(limit)
    return [DeploymentRow._make(row) for row in connection.execute(query)]


def broken(connection: Connection, wanted: Rollout) -> list[str]:
    """Return the devices whose offer stands, and that do not serve what they were offered.

    After the end these are the ones that came later.
    """
    status = standing(connection, wanted)
    query = from_deployments(wanted, deployment.c.device_id).where(status.in_(_BROKEN))
    if not wanted.is_open:
        first = _members(connection, wanted) - wanted.later
        query = query.where(deployment.c.position >= first)
    return list(connection.execute(query.order_by(deployment.c.position)).scalars())


def silent(connection: Connection, wanted: Rollout) -> list[str]:
    """Return those that are online and reported nothing since they were told what to run last."""
    told = case(
        (deployment.c.revert_generation > 0, deployment.c.revert_generation),
        else_=deployment.c.generation,
    )
    every = from_deployments(wanted, deployment.c.device_id)
    query = every.join(device, device.c.id == deployment.c.device_id).where(
        device.c.is_online,
        deployment.c.generation > 0,
        desired.c.generation == told,
        func.coalesce(reported.c.generation, 0) < told,
    )
    return list(connection.execute(query.order_by(deployment.c.position)).scalars())


def from_deployments(wanted: Rollout, *columns: Any) -> Select[Any]:  # noqa: ANN401 - columns
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


def standing(connection: Connection, wanted: Rollout) -> ColumnElement[str]:
    """Say where a device of a rollout stands; for queries made by `from_deployments`."""
    return _status(wanted, stretches(wanted, _members(connection, wanted)))


def _of_device(table: Any) -> ColumnElement[bool]:  # noqa: ANN401 - a table
    return and_(table.c.device_id == deployment.c.device_id, table.c.family == rollout.c.family)


def _status(wanted: Rollout, runs: Runs) -> ColumnElement[str]:
    told, said = deployment.c, reported.c
    is_in_shadow = told.mode == "shadow"
    is_left = and_(is_in_shadow, _phase(runs).not_in(shadows_now(wanted)))
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
        (told.generation == LOST, "superseded"),
        (told.generation == 0, "planned"),
        (desired.c.generation > newest, "superseded"),
        (and_(told.revert_generation > 0, is_back), "reverted"),
        (told.revert_generation > 0, "reverting"),
        # An earlier phase left it in the shadow; one that is to come lets it serve.
        (is_left, "planned"),
        (func.coalesce(said.generation, 0) != told.generation, "waiting"),
        (and_(is_in_shadow, said.state == "shadowing"), "shadowing"),
        (and_(is_in_shadow, said.state == "committed"), "differing"),
        (
            and_(said.state == "committed", said.serving_digest == _candidate.c.digest),
            "committed",
        ),
        (said.state == "committed", "differing"),
        (said.state == "failed", "failed"),
        (said.state == "rolled_back", "rolled_back"),
        else_="in_progress",
    )


def _has_no_way_back() -> ColumnElement[bool]:
    """Say whether a device had no model before, or one that its owners withdrew since."""
    return or_(_previous.c.digest.is_(None), _previous.c.is_withdrawn)


def _serves_another() -> ColumnElement[bool]:
    return reported.c.serving_digest != _candidate.c.digest


def _members(connection: Connection, wanted: Rollout) -> int:
    query = select(func.count()).where(deployment.c.rollout_id == wanted.id)
    return int(connection.execute(query).scalar_one())


def _phase(runs: Runs) -> ColumnElement[int]:
    """Say in which phase a position counts; beyond the last one is none."""
    return case(*((deployment.c.position < end, phase) for phase, _, end in runs), else_=-1)


def _counts(rows: Sequence[Row[Any]], planned: int) -> Counts:
    devices = {row.status: row.devices for row in rows}
    mirroring = devices.pop("planned", 0)
    # Who was lost to another rollout never had an offer.
    reached = [row for row in rows if row.status != "planned" and row.first is not None]
    unfinished = (row.first for row in rows if row.status in _UNFINISHED)
    return Counts(
        planned=planned + mirroring,
        **devices,
        stuck=sum(row.stuck for row in rows if row.status in _OFFERED),
        mirroring=mirroring,
        lost=sum(row.lost for row in rows if row.status == "superseded"),
        offered_first=min((row.first for row in reached), default=None),
        offered_last=max((row.last for row in reached), default=None),
        unfinished_first=min(unfinished, default=None),
    )
