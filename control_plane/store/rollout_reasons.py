"""Why devices of a rollout failed, grouped, and what labels said of both arms over time.

For people who look: decisions rest on `rollout_counts` and `label_sums`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import BigInteger, and_, case, cast, func, select

from control_plane.store import rollout_counts
from control_plane.store.dialects import row_by_row
from control_plane.store.schema import deployment, label_count, release, reported, rollout

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from control_plane.rollouts.model import Rollout

BROKEN: Final = ("failed", "rolled_back", "differing")
REASONS_MAX: Final = 20
NAMED_MAX: Final = 200

_candidate: Final = release.alias("candidate")


class Reason(NamedTuple):
    """Devices that ended alike, for the same fault: how many, what the first said, some of them."""

    status: str
    fault_code: str | None
    fault_message: str | None
    devices: int
    examples: tuple[str, ...]


class Interval(NamedTuple):
    """Labels that came in one interval: of the candidate where it serves, of others elsewhere."""

    number: int
    is_candidate: bool
    labelled: int
    wrong: int


def reasons(connection: Connection, wanted: Rollout) -> list[Reason]:
    """Return why devices failed, the most frequent reason first; of each some are named."""
    where, code = rollout_counts.standing(connection, wanted), reported.c.fault_code
    about = rollout_counts.from_deployments(
        wanted,
        where.label("standing"),
        code.label("code"),
        reported.c.fault_message.label("message"),
        deployment.c.device_id,
        deployment.c.position,
    ).where(deployment.c.generation > 0, where.in_(BROKEN))
    each = row_by_row(connection, about, deployment.c.device_id).c
    grouped = (
        select(
            each.standing,
            each.code,
            func.min(each.message).label("message"),
            func.count().label("devices"),
        )
        .group_by(each.standing, each.code)
        .order_by(func.count().desc())
        .limit(REASONS_MAX)
    )
    named: dict[tuple[str, str | None], list[str]] = {}
    every = select(each.standing, each.code, each.device_id)
    every = every.order_by(each.position).limit(NAMED_MAX)
    for row in connection.execute(every):
        named.setdefault((row.standing, row.code), []).append(row.device_id)
    return [
        Reason(
            row.standing,
            row.code,
            row.message,
            row.devices,
            tuple(named.get((row.standing, row.code), ())),
        )
        for row in connection.execute(grouped)
    ]


def labels_over_time(
    connection: Connection, wanted: Rollout, since: float, width_s: float
) -> list[Interval]:
    """Return what labels said in each interval of `width_s` since then, by arm."""
    said = label_count.c
    number: Any = cast((said.received - since) / width_s, BigInteger)
    is_offered = and_(deployment.c.generation > 0, deployment.c.mode == "serve")
    is_candidate = said.model == _candidate.c.digest
    is_own = case((is_offered, is_candidate), else_=~is_candidate)
    side = case((is_offered, 1), else_=0)
    query = (
        select(
            number.label("in_interval"),
            side.label("side"),
            func.sum(said.labelled).label("labelled"),
            func.sum(said.wrong).label("wrong"),
        )
        .select_from(deployment)
        .join(rollout, rollout.c.id == deployment.c.rollout_id)
        .join(_candidate, _candidate.c.path == rollout.c.release_path)
        .join(
            label_count,
            and_(said.device_id == deployment.c.device_id, said.family == rollout.c.family),
        )
        .where(
            deployment.c.rollout_id == wanted.id,
            deployment.c.generation >= 0,
            said.received >= since,
            is_own,
        )
        .group_by("in_interval", "side")
        .order_by("in_interval")
    )
    return [
        Interval(int(row.in_interval), bool(row.side), int(row.labelled), int(row.wrong))
        for row in connection.execute(query)
    ]
