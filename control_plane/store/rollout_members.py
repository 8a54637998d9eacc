"""The devices of a rollout: who is in it at its start, at which position, and whom others have."""

from __future__ import annotations

from collections import Counter
from itertools import repeat
from sys import intern
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import func, literal, select

from control_plane.rollouts import order
from control_plane.rollouts.selection import LeftOut
from control_plane.store import many, rollout_rivals
from control_plane.store.schema import deployment, device
from control_plane.store.selection import attribute, chosen
from firmware_bundles.errors import RolloutInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sqlalchemy import ColumnElement, Connection

    from control_plane.fleet.selectors import Selector
    from control_plane.rollouts.model import Rollout
    from control_plane.store.rollout_rivals import Rival

_INSERT: Final = "insert into deployment (rollout_id, device_id, position) values {rows}"
_ROWS: Final = 20_000  # in memory at once, as rows
# Rarer kinds are one stratum together.
_STRATA_MAX: Final = 100
_REST: Final = ""


class Enlisted(NamedTuple):
    """How many came in, what is to be said of it, and whose devices without an offer were taken."""

    devices: int
    told: tuple[str, ...]
    taken: Mapping[Rival, int]


def enlist(
    connection: Connection, wanted: Rollout, members: Selector, left_out: Sequence[LeftOut]
) -> Enlisted:
    """Give a new rollout its devices, in their order; `left_out` are those it is not for.

    Raises ConflictError, RolloutInvalid where others have all of them.
    """
    is_wanted = chosen(members)
    rivals = rollout_rivals.shared(connection, wanted, is_wanted)
    yielded = [
        LeftOut(rollout_rivals.reason(wanted, rival), devices)
        for rival, devices in rollout_rivals.stronger(wanted, rivals).items()
    ]
    # Asked of each device, so only where there is somebody to leave one to.
    _place(
        connection, wanted, is_wanted & ~rollout_rivals.is_taken(wanted) if yielded else is_wanted
    )
    own = select(func.count()).where(deployment.c.rollout_id == wanted.id)
    devices = int(connection.execute(own).scalar_one())
    told = tuple(str(each) for each in (*left_out, *yielded))
    if not devices:
        raise RolloutInvalid(f"cohort: no device is left: {'. '.join(told) or 'there is none now'}")
    taken = rollout_rivals.take(connection, wanted, rivals)
    return Enlisted(devices, (*told, *told_of(taken)), taken)


def told_of(taken: Mapping[Rival, int]) -> tuple[str, ...]:
    """Return sentences on devices that were taken from others."""
    return tuple(
        f"taken from rollout {rival.id}, which has priority {rival.priority}: {count} "
        "without an offer yet"
        for rival, count in taken.items()
    )


def _place(connection: Connection, wanted: Rollout, is_wanted: ColumnElement[bool]) -> None:
    """Give each device its deployment, at the position of `order.positions`.

    By id, as the primary key has them: a million rows go to its end, not everywhere.
    """
    query = select(device.c.id, _stratum(wanted.spec.stratify_by)).where(is_wanted)
    devices: list[str] = []
    strata: list[str] = []
    for some in connection.execute(query.order_by(device.c.id)).partitions(_ROWS):
        devices += [row[0] for row in some]
        strata += [intern(row[1]) for row in some]
    placed = order.positions(wanted.id, devices, _merged(strata))
    for start in range(0, len(devices), _ROWS):
        end = start + _ROWS
        rows = zip(repeat(wanted.id), devices[start:end], placed[start:end], strict=False)
        many.run(connection, _INSERT, list(rows))


def _merged(strata: list[str]) -> list[str]:
    """Return strata with the rarer ones merged; of equals the first by name are told apart."""
    sizes = Counter(strata)
    if len(sizes) <= _STRATA_MAX:
        return strata
    largest = set(sorted(sizes, key=lambda each: (-sizes[each], each))[:_STRATA_MAX])
    return [each if each in largest else _REST for each in strata]


def _stratum(names: Sequence[str]) -> Any:  # noqa: ANN401 - a column of text
    """Say of which stratum a device is: its values, which have no comma, one after the other."""
    found: Any = literal("")
    for name in names:
        found = found + func.coalesce(attribute(name), "") + ","
    return found
