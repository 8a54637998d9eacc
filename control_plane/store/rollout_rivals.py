"""Devices that two open rollouts of one family want: the higher priority has them.

Between equals nobody decides: the later rollout is refused. A device with an offer stays with the
rollout that made it until the other one makes its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import exists, func, select, update

from control_plane.rollouts.model import OPEN_STATES
from control_plane.store.schema import deployment, device, rollout
from firmware_bundles.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Connection

    from control_plane.rollouts.model import Rollout

# The generation of a device whose place another rollout took before it had an offer.
LOST: Final = -1


class Rival(NamedTuple):
    """Another open rollout of the family."""

    id: str
    priority: int


def shared(
    connection: Connection, wanted: Rollout, is_wanted: ColumnElement[bool]
) -> dict[Rival, int]:
    """Return how many of the devices that are wanted each other open rollout of the family has.

    Raises ConflictError where one of the same priority has any.
    """
    query = (
        select(
            rollout.c.id,
            rollout.c.priority,
            func.count().label("devices"),
            func.min(device.c.id).label("example"),
        )
        .join(deployment, deployment.c.rollout_id == rollout.c.id)
        .join(device, device.c.id == deployment.c.device_id)
        .where(_is_rival(wanted), is_wanted)
        .group_by(rollout.c.id, rollout.c.priority)
        .order_by(rollout.c.id)
    )
    found: dict[Rival, int] = {}
    for row in connection.execute(query):
        if row.priority == wanted.spec.priority:
            raise ConflictError(
                f"device {row.example} is part of the open rollout {row.id} of the same family",
                hint="Wait for it to end, abort it, or give one of them a higher priority.",
            )
        found[Rival(row.id, row.priority)] = row.devices
    return found


def stronger(wanted: Rollout, rivals: Mapping[Rival, int]) -> dict[Rival, int]:
    """Return those with a higher priority."""
    return {
        rival: count for rival, count in rivals.items() if rival.priority > wanted.spec.priority
    }


def reason(wanted: Rollout, rival: Rival) -> str:
    """Return why devices are left to another rollout."""
    has = f"rollout {rival.id} has them, its priority {rival.priority}"
    return f"{has} is above {wanted.spec.priority}"


def is_taken(wanted: Rollout) -> ColumnElement[bool]:
    """Say whether a rollout of higher priority has a device."""
    return exists(
        select(deployment.c.device_id)
        .join(rollout, rollout.c.id == deployment.c.rollout_id)
        .where(
            _is_rival(wanted),
            rollout.c.priority > wanted.spec.priority,
            deployment.c.device_id == device.c.id,
        )
    )


def take(connection: Connection, wanted: Rollout, rivals: Mapping[Rival, int]) -> dict[Rival, int]:
    """Take the rollout's devices from those of lower priority that did not offer to them yet.

    Returns how many each of them lost.
    """
    own = select(deployment.c.device_id).where(deployment.c.rollout_id == wanted.id)
    taken: dict[Rival, int] = {}
    for rival in rivals:
        if rival.priority < wanted.spec.priority:
            lost = (
                update(deployment)
                .where(
                    deployment.c.rollout_id == rival.id,
                    deployment.c.generation == 0,
                    deployment.c.device_id.in_(own.scalar_subquery()),
                )
                .values(superseded_by=wanted.id, generation=LOST)
            )
            if count := connection.execute(lost).rowcount:
                taken[rival] = count
    return taken


def _is_rival(wanted: Rollout) -> ColumnElement[bool]:
    return (
        (rollout.c.id != wanted.id)
        & (rollout.c.family == wanted.spec.family)
        & rollout.c.state.in_(sorted(OPEN_STATES))
        & deployment.c.superseded_by.is_(None)
    )
