"""Completed rollouts and the devices that come after their end: found, joined, and offered to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, exists, func, insert, or_, select

from control_plane.rollouts.model import OPEN_STATES, Joined, Rollout, RolloutState
from control_plane.store.rollout_joining import told_of_joined
from control_plane.store.schema import deployment, desired, device, release, reported, rollout
from control_plane.store.selection import chosen

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select

    from control_plane.fleet.selectors import Selector

# How many join in one transaction; the others do at the next look.
DEVICES_PER_LOOK: Final = 1_000
# Cohorts and families are few; older rollouts than these are not looked at.
COMPLETED_MAX: Final = 1_000


def completed() -> Select[Any]:
    """Select the last completed rollouts, the newest first."""
    done = select(rollout).where(rollout.c.state == RolloutState.COMPLETED.value)
    return done.order_by(rollout.c.phase_since.desc(), rollout.c.id).limit(COMPLETED_MAX)


def withdrawn(connection: Connection) -> frozenset[str]:
    """Return the paths of the releases that their owners do not allow any more."""
    query = select(release.c.path).where(release.c.is_withdrawn)
    return frozenset(connection.execute(query).scalars())


def has_newcomers(connection: Connection, wanted: Rollout, members: Selector) -> bool:
    """Whether anybody would join: asked without holding up who writes."""
    return connection.execute(_newcomers(wanted, members).limit(1)).first() is not None


def join(connection: Connection, wanted: Rollout, members: Selector) -> tuple[int, str]:
    """Take in selected devices after the end, behind all others; return how many, and who."""
    few = _newcomers(wanted, members).limit(DEVICES_PER_LOOK)
    devices = list(connection.execute(few).scalars())
    own = select(func.count()).where(deployment.c.rollout_id == wanted.id)
    count = connection.execute(own).scalar_one()
    rows = [
        {"rollout_id": wanted.id, "device_id": each, "position": position}
        for position, each in enumerate(devices, start=count)
    ]
    if rows:
        connection.execute(insert(deployment), rows)
    return len(devices), f"after the end {told_of_joined(wanted, devices)}"


def noted(wanted: Rollout, devices: int) -> tuple[Joined, ...]:
    """Return who joined when, with so many more devices after the end."""
    last = len(wanted.spec.course()) - 1
    before = tuple(each for each in wanted.joined if each.phase < last)
    return (*before, Joined(phase=last, devices=wanted.later + devices))


def is_wanting(connection: Connection, wanted: Rollout) -> bool:
    """Whether a device that came after the end has no offer yet, or has it and is silent."""
    own = select(func.count()).where(deployment.c.rollout_id == wanted.id)
    first = connection.execute(own).scalar_one() - wanted.later
    query = select(deployment.c.device_id).where(
        deployment.c.rollout_id == wanted.id,
        deployment.c.revert_generation == 0,
        deployment.c.position >= first,
    )
    planned = query.where(deployment.c.generation == 0, is_free(wanted, deployment.c.device_id))
    silent = (
        query.join(device, device.c.id == deployment.c.device_id)
        .outerjoin(
            reported,
            and_(
                reported.c.device_id == deployment.c.device_id,
                reported.c.family == wanted.spec.family,
            ),
        )
        .where(
            device.c.is_online,
            deployment.c.generation > func.coalesce(reported.c.generation, 0),
        )
    )
    found = (connection.execute(each.limit(1)).first() for each in (planned, silent))
    return any(row is not None for row in found)


def is_free(wanted: Rollout, device_id: Any) -> ColumnElement[bool]:  # noqa: ANN401 - a column
    """Say whether no rollout that counts more told a device what to run.

    An open one does, one that a person aborted, and one that was completed later; not one that
    went back, nor an older one.
    """
    claims = [*sorted(OPEN_STATES), RolloutState.CANCELLED.value]
    is_later = and_(
        rollout.c.state == RolloutState.COMPLETED.value,
        rollout.c.phase_since > wanted.standing.since,
    )
    return ~exists(
        select(desired.c.device_id)
        .join(rollout, rollout.c.id == desired.c.rollout_id)
        .where(
            desired.c.device_id == device_id,
            desired.c.family == wanted.spec.family,
            rollout.c.id != wanted.id,
            or_(rollout.c.state.in_(claims), is_later),
        )
    )


def _newcomers(wanted: Rollout, members: Selector) -> Select[Any]:
    """Select the devices that are not in the rollout, and that no other one has, by id."""
    is_in = exists().where(
        deployment.c.rollout_id == wanted.id, deployment.c.device_id == device.c.id
    )
    return (
        select(device.c.id)
        .where(chosen(members), ~is_in, is_free(wanted, device.c.id))
        .order_by(device.c.id)
    )
