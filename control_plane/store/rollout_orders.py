"""Orders carried out: which devices lack what an order says, and what they shall run instead.

A device is marked and told what to run in one transaction, so an order done twice is done once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import bindparam, select, update

from control_plane.rollouts.model import Action, Order, Rollout
from control_plane.store.devices import Desired, change_desired
from control_plane.store.schema import deployment, desired, release, reported
from firmware_bundles.wire.messages import Arm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

# How many devices one transaction changes; others write in between.
DEVICES_PER_TRANSACTION: Final = 1_000


class _Change(NamedTuple):
    """What an order makes of one device."""

    device_id: str
    path: str
    digest: str
    length: int
    previous_path: str | None


def carry_out(connection: Connection, wanted: Rollout, order: Order, now: float) -> list[str]:
    """Do an order for the next devices that lack it; return them, none when all have it."""
    find = _to_offer if order.action is Action.OFFER else _to_revert
    changes = find(connection, wanted, order)
    generations = change_desired(connection, _desired(wanted, order, changes), now)
    _mark(connection, wanted, order, changes, generations, now)
    return [change.device_id for change in changes]


def _range(wanted: Rollout, order: Order) -> Any:  # noqa: ANN401 - a condition
    return (
        (deployment.c.rollout_id == wanted.id)
        & (deployment.c.position >= order.first)
        & (deployment.c.position < order.end)
    )


def _of_device(table: Any, wanted: Rollout) -> Any:  # noqa: ANN401 - a table, a condition
    return (table.c.device_id == deployment.c.device_id) & (table.c.family == wanted.spec.family)


def _to_offer(connection: Connection, wanted: Rollout, order: Order) -> list[_Change]:
    candidate = connection.execute(
        select(release.c.path, release.c.digest, release.c.length).where(
            release.c.path == wanted.release_path
        )
    ).one()
    query = (
        select(
            deployment.c.device_id,
            desired.c.path.label("wanted"),
            desired.c.arm,
            release.c.path.label("serving"),
        )
        .outerjoin(desired, _of_device(desired, wanted))
        .outerjoin(reported, _of_device(reported, wanted))
        .outerjoin(release, release.c.digest == reported.c.serving_digest)
        .where(_range(wanted, order), deployment.c.generation == 0)
        .order_by(deployment.c.position)
        .limit(DEVICES_PER_TRANSACTION)
    )
    return [
        _Change(row.device_id, *candidate, _previous(row, candidate.path))
        for row in connection.execute(query)
    ]


def _previous(row: Any, candidate: str) -> str | None:  # noqa: ANN401 - a row
    """Return where a device goes back to: what it serves, unless it was already sent elsewhere."""
    is_going_back = row.arm == Arm.ROLLBACK.value
    path: str | None = row.wanted if is_going_back else row.serving or row.wanted
    return None if path == candidate else path


def _to_revert(connection: Connection, wanted: Rollout, order: Order) -> list[_Change]:
    query = (
        select(
            deployment.c.device_id,
            release.c.path,
            release.c.digest,
            release.c.length,
            deployment.c.previous_path,
        )
        .join(release, release.c.path == deployment.c.previous_path)
        .join(desired, _of_device(desired, wanted))
        .where(
            _range(wanted, order),
            deployment.c.generation > 0,
            deployment.c.revert_generation == 0,
            desired.c.generation <= deployment.c.generation,
        )
        .order_by(deployment.c.position)
        .limit(DEVICES_PER_TRANSACTION)
    )
    return [_Change._make(row) for row in connection.execute(query)]


def _desired(wanted: Rollout, order: Order, changes: Sequence[_Change]) -> list[Desired]:
    arm = Arm.CANDIDATE if order.action is Action.OFFER else Arm.ROLLBACK
    return [
        Desired(
            device_id=change.device_id,
            family=wanted.spec.family,
            path=change.path,
            digest=change.digest,
            length=change.length,
            rollout_id=wanted.id,
            arm=arm.value,
            policy=wanted.spec.device_policy(),
        )
        for change in changes
    ]


def _mark(
    connection: Connection,
    wanted: Rollout,
    order: Order,
    changes: Sequence[_Change],
    generations: dict[str, int],
    now: float,
) -> None:
    if not changes:
        return
    generation: Any = bindparam("new_generation")
    values: dict[str, Any] = {"revert_generation": generation}
    if order.action is Action.OFFER:
        previous: Any = bindparam("new_previous")
        values = {"generation": generation, "offered": now, "previous_path": previous}
    statement = update(deployment).where(
        deployment.c.rollout_id == wanted.id, deployment.c.device_id == bindparam("device")
    )
    rows = [
        {
            "device": change.device_id,
            "new_generation": generations[change.device_id],
            "new_previous": change.previous_path,
        }
        for change in changes
    ]
    connection.execute(statement.values(values), rows)
