"""Orders carried out: which devices lack what an order says, and what they shall run instead.

Devices are marked by one statement a wave, and told what to run in the same transaction, so an
order done twice is done once. No statement names devices that it does not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, case, func, or_, select, update

from control_plane.rollouts.model import Action, Order, Rollout
from control_plane.store import rollout_upholding
from control_plane.store.devices import Desired, store_desired
from control_plane.store.dialects import greatest, skip_locked
from control_plane.store.schema import deployment, desired, device, release, reported, rollout
from firmware_bundles.windows import UTC_OFFSET
from firmware_bundles.wire.messages import Arm

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Select, Table

    from firmware_bundles.wire.messages import Policy

# How many devices one transaction changes; others write in between.
DEVICES_PER_TRANSACTION: Final = 1_000


def forget_offers(connection: Connection, wanted: Rollout, devices: Sequence[str]) -> None:
    """Take devices for such as never had an offer, so that they get one again."""
    forgotten = (
        update(deployment)
        .where(deployment.c.rollout_id == wanted.id, deployment.c.device_id == bindparam("device"))
        .values(generation=0, revert_generation=0, offered=None)
    )
    if devices:
        connection.execute(forgotten, [{"device": device_id} for device_id in devices])


def carry_out(connection: Connection, wanted: Rollout, order: Order, now: float) -> list[str]:
    """Do an order for the next devices that lack it; return them, none when all have it."""
    if order.action is Action.OFFER:
        return _offer(connection, wanted, order, now)
    return _revert(connection, wanted, order, now)


def _offer(connection: Connection, wanted: Rollout, order: Order, now: float) -> list[str]:
    phase = wanted.spec.course()[order.phase]
    few = _limit(connection, wanted, order, phase.mode)
    if not few:
        return []
    query = _lacking(wanted, order, phase.mode)
    statement = (
        update(deployment)
        .where(*_next(connection, wanted, query, few))
        .values(
            generation=_generation(connection, wanted, now),
            previous_path=_previous(wanted),
            offered=now,
            mode=phase.mode,
        )
        .returning(deployment.c.device_id, deployment.c.generation)
    )
    generations = {row.device_id: row.generation for row in connection.execute(statement)}
    (candidate,) = _releases(connection, [wanted.release_path]).values()
    policy = wanted.spec.device_policy(phase)
    rows = [_desired(wanted, each, candidate, Arm.CANDIDATE, policy) for each in generations]
    store_desired(connection, rows, generations, now)
    return list(generations)


def _revert(connection: Connection, wanted: Rollout, order: Order, now: float) -> list[str]:
    query = (
        _in_range(wanted, order)
        .join(release, release.c.path == deployment.c.previous_path)
        .join(desired, _of_device(desired, wanted))
        .where(
            ~release.c.is_withdrawn,
            deployment.c.generation > 0,
            desired.c.generation <= deployment.c.generation,
        )
    )
    statement = (
        update(deployment)
        .where(*_next(connection, wanted, query, DEVICES_PER_TRANSACTION))
        .values(revert_generation=_generation(connection, wanted, now))
        .returning(
            deployment.c.device_id, deployment.c.revert_generation, deployment.c.previous_path
        )
    )
    found = connection.execute(statement).all()
    releases = _releases(connection, {row.previous_path for row in found})
    policy = wanted.spec.device_policy()
    rows = [
        _desired(wanted, row.device_id, releases[row.previous_path], Arm.ROLLBACK, policy)
        for row in found
    ]
    generations = {row.device_id: row.revert_generation for row in found}
    store_desired(connection, rows, generations, now)
    return list(generations)


def _in_range(wanted: Rollout, order: Order) -> Select[Any]:
    """Select the devices at an order's positions that nobody sent back."""
    return select(deployment.c.device_id).where(
        deployment.c.rollout_id == wanted.id,
        deployment.c.revert_generation == 0,
        deployment.c.position >= order.first,
        deployment.c.position < order.end,
    )


def _lacking(wanted: Rollout, order: Order, mode: str) -> Select[Any]:
    """Select those that had no such offer: a device in the shadow is still to be asked to serve."""
    query = _in_range(wanted, order)
    if not wanted.is_open:
        query = query.where(rollout_upholding.is_free(wanted, deployment.c.device_id))
    had_shadows = any(phase.mode == "shadow" for phase in wanted.spec.phases[: order.phase])
    if mode == "shadow" or not had_shadows:
        query = query.where(deployment.c.generation == 0)
    else:
        known = func.coalesce(_one(desired.c.generation, desired, wanted), 0)
        is_in_shadow = and_(deployment.c.mode == "shadow", known <= deployment.c.generation)
        query = query.where(or_(deployment.c.generation == 0, is_in_shadow))
    if order.offsets is None:
        return query
    offset = device.c.inventory[UTC_OFFSET].as_integer()
    allowed = offset.in_([each for each in order.offsets if each is not None])
    if None in order.offsets:
        allowed = or_(allowed, offset.is_(None))
    return query.join(device, device.c.id == deployment.c.device_id).where(allowed)


def _limit(connection: Connection, wanted: Rollout, order: Order, mode: str) -> int:
    """Return how many devices this transaction may offer to."""
    if order.reached_max is None:
        return DEVICES_PER_TRANSACTION
    # Who else does this order counts after us.
    connection.execute(select(rollout.c.id).where(rollout.c.id == wanted.id).with_for_update())
    reached = select(func.count()).where(
        deployment.c.rollout_id == wanted.id,
        deployment.c.position >= order.first,
        deployment.c.position < order.end,
        deployment.c.offered.is_not(None),
        deployment.c.mode == mode,
    )
    left: int = order.reached_max - connection.execute(reached).scalar_one()
    return max(0, min(left, DEVICES_PER_TRANSACTION))


def _next(
    connection: Connection, wanted: Rollout, query: Select[Any], few: int
) -> tuple[ColumnElement[bool], ...]:
    """Say which deployments come next of those that `query` selects, so many at most."""
    ordered = query.order_by(deployment.c.generation, deployment.c.position)
    wave = skip_locked(connection, ordered.limit(few), deployment)
    return deployment.c.rollout_id == wanted.id, deployment.c.device_id.in_(wave)


def _of_device(table: Table, wanted: Rollout) -> ColumnElement[bool]:
    return and_(table.c.device_id == deployment.c.device_id, table.c.family == wanted.spec.family)


def _generation(connection: Connection, wanted: Rollout, now: float) -> ColumnElement[int]:
    """Say what is newer than all that a device was told or knows, and not below the time.

    After a restore from a backup the device may know a newer generation than we do.
    """
    known = (_one(table.c.generation, table, wanted) for table in (desired, reported))
    newest = (func.coalesce(generation, 0) + 1 for generation in known)
    return greatest(connection, int(now), *newest)


def _previous(wanted: Rollout) -> ColumnElement[str]:
    """Say where a device goes back to: what it serves, unless it was already sent elsewhere."""
    own = _one(desired.c.path, desired, wanted)
    is_going_back = _one(desired.c.arm, desired, wanted) == Arm.ROLLBACK.value
    serving = (
        select(release.c.path)
        .join(reported, reported.c.serving_digest == release.c.digest)
        .where(_of_device(reported, wanted))
        .correlate(deployment)
        .scalar_subquery()
    )
    path = case((is_going_back, own), else_=func.coalesce(serving, own))
    return func.nullif(path, wanted.release_path)


def _one(column: Any, table: Table, wanted: Rollout) -> Any:  # noqa: ANN401 - a column's own type
    """Select a column of the device's row in a table with one row for each family."""
    own = _of_device(table, wanted)
    return select(column).where(own).correlate(deployment).scalar_subquery()


def _releases(connection: Connection, paths: Iterable[str]) -> dict[str, tuple[str, str, int]]:
    columns = release.c.path, release.c.digest, release.c.length
    rows = connection.execute(select(*columns).where(release.c.path.in_(sorted(paths))))
    return {path: (path, digest, length) for path, digest, length in rows}


def _desired(
    wanted: Rollout, device_id: str, target: tuple[str, str, int], arm: Arm, policy: Policy
) -> Desired:
    path, digest, length = target
    return Desired(
        device_id=device_id,
        family=wanted.spec.family,
        path=path,
        digest=digest,
        length=length,
        rollout_id=wanted.id,
        arm=arm.value,
        policy=policy,
    )
