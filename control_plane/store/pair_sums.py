"""Pairs of a rollout: what its release and the models beside it answered to the same inputs.

Which of the two served does not matter here: before the switch it is the other one, in probation
the release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, case, func, select

from control_plane.rollouts.evidence import Pairs
from control_plane.store.schema import deployment, pair_count, release, rollout

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from control_plane.rollouts.model import Rollout


def count(connection: Connection, wanted: Rollout, since: float | None) -> Pairs:
    """Count the pairs of devices with an offer that were completed since (Unix seconds)."""
    if since is None:
        return Pairs()
    said = pair_count.c
    is_shadow = said.shadow == release.c.digest
    ours = case((is_shadow, said.shadow_only), else_=said.live_only)
    theirs = case((is_shadow, said.live_only), else_=said.shadow_only)
    columns = (said.pairs, said.agreed, said.labelled, ours, theirs)
    query = (
        select(
            func.count(said.device_id.distinct()),
            *(func.coalesce(func.sum(column), 0) for column in columns),
        )
        .select_from(deployment)
        .join(rollout, rollout.c.id == deployment.c.rollout_id)
        .join(release, release.c.path == rollout.c.release_path)
        .join(
            pair_count,
            and_(said.device_id == deployment.c.device_id, said.family == rollout.c.family),
        )
        .where(
            deployment.c.rollout_id == wanted.id,
            deployment.c.generation > 0,
            said.received >= since,
            (said.live == release.c.digest) != is_shadow,
        )
    )
    return Pairs(*(int(value) for value in connection.execute(query).one()))
