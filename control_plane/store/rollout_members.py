"""The devices of a rollout: who is in it at its start, at which position, and whom others have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import Float, case, cast, func, insert, literal, select

from control_plane.rollouts import order
from control_plane.rollouts.selection import LeftOut
from control_plane.store import rollout_rivals
from control_plane.store.dialects import sha256
from control_plane.store.schema import deployment, device
from control_plane.store.selection import attribute, chosen
from firmware_bundles.errors import RolloutInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sqlalchemy import ColumnElement, Connection, Select

    from control_plane.fleet.selectors import Selector
    from control_plane.rollouts.model import Rollout
    from control_plane.store.rollout_rivals import Rival

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
    """Give each device its deployment, at the position of `order.arrange`."""
    stratum = _stratum(wanted.spec.stratify_by)
    sizes = _sizes(connection, stratum, is_wanted)
    if len(sizes) <= 1:
        _place_by_hash(connection, wanted, is_wanted)
        return
    known = (
        stratum if _REST not in sizes else case((stratum.in_(list(sizes)), stratum), else_=_REST)
    )
    place = sha256(connection, wanted.id, device.c.id)
    dealt = (
        select(
            device.c.id,
            place.label("place"),
            known.label("stratum"),
            func.row_number().over(partition_by=known, order_by=place).label("number"),
        )
        .where(is_wanted)
        .subquery()
    )
    first = {each: order.shift(wanted.id, each) for each in sizes}
    share = (
        cast(dealt.c.number - 1, Float) + cast(case(first, value=dealt.c.stratum), Float)
    ) / cast(case(sizes, value=dealt.c.stratum), Float)
    position = func.row_number().over(order_by=(share, dealt.c.place))
    _insert(
        connection,
        select(literal(wanted.id), dealt.c.id.label("device_id"), (position - 1).label("position")),
    )


def _place_by_hash(connection: Connection, wanted: Rollout, is_wanted: ColumnElement[bool]) -> None:
    """Do the same where all are one stratum: with one sort in place of two."""
    place = sha256(connection, wanted.id, device.c.id)
    position = func.row_number().over(order_by=place)
    query = select(
        literal(wanted.id), device.c.id.label("device_id"), (position - 1).label("position")
    )
    _insert(connection, query.where(is_wanted))


def _insert(connection: Connection, placed: Select[Any]) -> None:
    found = placed.subquery()
    # By id, as the primary key has them: a million rows go to its end, not everywhere.
    query = select(found).order_by(found.c.device_id)
    columns = ["rollout_id", "device_id", "position"]
    connection.execute(insert(deployment).from_select(columns, query))


def _stratum(names: Sequence[str]) -> Any:  # noqa: ANN401 - a column of text
    """Say of which stratum a device is: its values, which have no comma, one after the other."""
    found: Any = literal("")
    for name in names:
        found = found + func.coalesce(attribute(name), "") + ","
    return found


def _sizes(
    connection: Connection,
    stratum: Any,  # noqa: ANN401 - a column of text
    is_wanted: ColumnElement[bool],
) -> dict[str, int]:
    """Return the largest strata with their sizes, and that of all others together, if any."""
    query = (
        select(stratum.label("stratum"), func.count().label("devices"))
        .select_from(device)
        .where(is_wanted)
        .group_by("stratum")
        .order_by(func.count().desc(), "stratum")
        .limit(_STRATA_MAX + 1)
    )
    found = {row.stratum: row.devices for row in connection.execute(query)}
    if len(found) <= _STRATA_MAX:
        return found
    largest = dict(list(found.items())[:_STRATA_MAX])
    every = select(func.count()).select_from(device).where(is_wanted)
    return largest | {_REST: connection.execute(every).scalar_one() - sum(largest.values())}
