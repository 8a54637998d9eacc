"""Devices that join a rollout while it runs: mixed among those that no phase has reached so far.

Each takes the place of a device without an offer, chosen by its hash, which moves to the end; the
hold-out stays behind both. However many devices there are, one that joins changes three rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import exists, func, insert, or_, select, update

from control_plane.rollouts import order
from control_plane.rollouts.model import Joined, held_out, joining_phase, phase_ends
from control_plane.store import rollout_rivals
from control_plane.store.rollout_members import told_of
from control_plane.store.schema import deployment, device, reported
from control_plane.store.selection import chosen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Select

    from control_plane.fleet.selectors import Selector
    from control_plane.rollouts.model import Rollout
    from control_plane.store.rollout_rivals import Rival

# How many join in one transaction; the others do at the next look.
DEVICES_PER_LOOK: Final = 1_000
_ATTEMPTS_MAX: Final = 32
_NAMED_MAX: Final = 3


class Joining(NamedTuple):
    """Who came, what is to be said of it, and whose devices without an offer were taken."""

    joined: Joined
    told: tuple[str, ...]
    taken: Mapping[Rival, int]


def join(connection: Connection, wanted: Rollout, members: Selector) -> Joining | None:
    """Take in the selected devices that the rollout does not have yet; None if there are none.

    Raises ConflictError.
    """
    phase = joining_phase(wanted)
    if phase is None:
        return None
    few = _later(wanted, members).limit(DEVICES_PER_LOOK)
    devices = list(connection.execute(few).scalars())
    if not devices:
        return None
    is_wanted = device.c.id.in_(devices)
    rivals = rollout_rivals.shared(connection, wanted, is_wanted)
    count = connection.execute(
        select(func.count()).where(deployment.c.rollout_id == wanted.id)
    ).scalar_one()
    reached = max(phase_ends(wanted.spec, count, wanted.joined)[: phase + 1], default=0)
    is_held_out = wanted.standing.phase < len(wanted.spec.phases)
    for number, device_id in enumerate(devices, start=count):
        held = held_out(wanted.spec, number) if is_held_out else 0
        _place(connection, wanted, device_id, first=reached, members=number, held=held)
    taken = rollout_rivals.take(connection, wanted, rivals)
    joined = Joined(phase=phase, devices=len(devices))
    return Joining(joined, (told_of_joined(wanted, devices), *told_of(taken)), taken)


def has_later(connection: Connection, wanted: Rollout, members: Selector) -> bool:
    """Whether anybody would join: asked without holding up who writes."""
    return connection.execute(_later(wanted, members).limit(1)).first() is not None


def has_gone(connection: Connection, wanted: Rollout) -> bool:
    """Whether anybody would be dismissed: asked without holding up who writes."""
    return connection.execute(_gone(wanted).limit(1)).first() is not None


def dismiss(connection: Connection, wanted: Rollout) -> int:
    """Give up the devices that lost their access and had no offer, or never answered theirs.

    Nothing that they say would count; a rollout must not wait for them. Returns how many.
    """
    dismissed = (
        update(deployment)
        .where(
            deployment.c.rollout_id == wanted.id,
            deployment.c.device_id.in_(_gone(wanted).scalar_subquery()),
        )
        .values(generation=rollout_rivals.LOST, revert_generation=0)
    )
    return connection.execute(dismissed).rowcount


def _gone(wanted: Rollout) -> Select[Any]:
    said, told = reported.c, deployment.c
    is_own = (said.device_id == told.device_id) & (said.family == wanted.spec.family)
    is_silent = or_(said.generation.is_(None), said.generation < told.generation)
    # They are few, and have an index of their own.
    leaving = select(device.c.id).where(
        or_(device.c.revoked.is_not(None), device.c.retiring.is_not(None))
    )
    return (
        select(told.device_id)
        .outerjoin(reported, is_own)
        .where(
            told.rollout_id == wanted.id,
            told.device_id.in_(leaving),
            or_(told.generation == 0, (told.generation > 0) & is_silent),
        )
    )


def _later(wanted: Rollout, members: Selector) -> Select[Any]:
    """Select the devices that are not in the rollout, nor in a stronger one, by id."""
    is_in = exists().where(
        deployment.c.rollout_id == wanted.id, deployment.c.device_id == device.c.id
    )
    return (
        select(device.c.id)
        .where(chosen(members), ~is_in, ~rollout_rivals.is_taken(wanted))
        .order_by(device.c.id)
    )


def _place(
    connection: Connection, wanted: Rollout, device_id: str, *, first: int, members: int, held: int
) -> None:
    """Give a device a place from `first` on, before the last `held` of so many `members`."""
    free = members - held
    if held:
        _move(connection, wanted, free, members)
    at = free
    for attempt in range(_ATTEMPTS_MAX):
        at = first + order.slot(wanted.id, device_id, attempt, free + 1 - first)
        if at == free or _move(connection, wanted, at, free):
            break
    else:
        at = free
    row = {"rollout_id": wanted.id, "device_id": device_id, "position": at}
    connection.execute(insert(deployment).values(row))


def _move(connection: Connection, wanted: Rollout, at: int, to: int) -> bool:
    """Move who stands at a position; False if that device has an offer."""
    moved = (
        update(deployment)
        .where(
            deployment.c.rollout_id == wanted.id,
            deployment.c.revert_generation == 0,
            deployment.c.generation <= 0,
            deployment.c.position == at,
        )
        .values(position=to)
    )
    return connection.execute(moved).rowcount > 0


def told_of_joined(wanted: Rollout, devices: Sequence[str]) -> str:
    """Return a sentence on devices that joined, which names the first ones."""
    count = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
    more = ", ..." if len(devices) > _NAMED_MAX else ""
    return f"joined: {count} of {wanted.spec.cohort} ({', '.join(devices[:_NAMED_MAX])}{more})"
