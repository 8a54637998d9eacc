"""Labels of a rollout by arm, summed over devices: the numbers that the gate on labels compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Float, and_, case, cast, func, select

from control_plane.rollouts.model import LabelCounts
from control_plane.rollouts.statistics import Arm as Sums
from control_plane.store.schema import deployment, label_count, release, rollout
from firmware_bundles.wire.messages import Arm

if TYPE_CHECKING:
    from sqlalchemy import CTE, ColumnElement, Connection

    from control_plane.rollouts.model import Rollout

HISTORY_S: Final = 86_400.0

_candidate: Final = release.alias("candidate")


def count(
    connection: Connection, wanted: Rollout, since: float | None, first: float | None
) -> dict[Arm, LabelCounts]:
    """Count labels since the phase's first offer, `since`, for both arms.

    They are those of the candidate where it was offered, and of other models where it was not.
    What devices were before is what labels said of other models in the day before `first`, the
    rollout's first offer; a device without such labels is taken for the average one.
    """
    arms = {arm: LabelCounts() for arm in (Arm.CANDIDATE, Arm.CONTROL)}
    if since is None or first is None:
        return arms
    each = _by_device(wanted, since, first)
    average = select(func.coalesce(func.avg(each.c.before), 0.0)).scalar_subquery()
    x, z = func.coalesce(each.c.before, average), each.c.since
    query = select(
        each.c.side,
        func.sum(each.c.labelled),
        func.sum(each.c.wrong),
        func.count(),
        *(func.sum(value) for value in (x, z, x * x, x * z, z * z)),
    ).group_by(each.c.side)
    for side, labelled, wrong, devices, *sums in connection.execute(query):
        arms[Arm(side)] = LabelCounts(
            labelled=int(labelled),
            wrong=int(wrong),
            by_device=Sums(devices, int(labelled), *(float(value) for value in (*sums, wrong))),
        )
    return arms


def _by_device(wanted: Rollout, since: float, first: float) -> CTE:
    """Select each device that has labels since: how many, how many wrong, and both shares."""
    said = label_count.c
    is_offered = and_(deployment.c.generation > 0, deployment.c.mode == "serve")
    is_candidate = said.model == _candidate.c.digest
    is_own = case((is_offered, is_candidate), else_=~is_candidate)
    is_since = and_(said.received >= since, is_own)
    is_before = and_(said.received < first, said.received >= first - HISTORY_S, ~is_candidate)
    labelled, wrong = _sum(is_since, said.labelled), _sum(is_since, said.wrong)
    labelled_before, wrong_before = _sum(is_before, said.labelled), _sum(is_before, said.wrong)
    arm = case((is_offered, Arm.CANDIDATE.value), else_=Arm.CONTROL.value)
    return (
        select(
            arm.label("side"),
            labelled.label("labelled"),
            wrong.label("wrong"),
            (cast(wrong, Float) / labelled).label("since"),
            (cast(wrong_before, Float) / func.nullif(labelled_before, 0)).label("before"),
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
            said.received >= first - HISTORY_S,
        )
        .group_by(deployment.c.device_id, deployment.c.generation, deployment.c.mode)
        .having(labelled > 0)
        .cte("labels_by_device")
    )


def _sum(condition: ColumnElement[bool], column: Any) -> ColumnElement[int]:  # noqa: ANN401 - a column
    return func.sum(case((condition, column), else_=0))
