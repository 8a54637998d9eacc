"""What metric servers answered to the queries of rollouts: the last answer of each gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from control_plane.rollouts.evidence import Metric
from control_plane.store import many
from control_plane.store.schema import metric_answer

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from control_plane.rollouts.model import Rollout


def last(connection: Connection, wanted: Rollout) -> tuple[tuple[str, Metric], ...]:
    """Return the last answers for a rollout, by the names of its gates."""
    said = metric_answer.c
    query = (
        select(said.name, said.value, said.at, said.fault)
        .where(said.rollout_id == wanted.id)
        .order_by(said.name)
    )
    return tuple(
        (row.name, Metric(row.value, row.at, row.fault)) for row in connection.execute(query)
    )


def keep(connection: Connection, rollout_id: str, name: str, found: Metric) -> None:
    """Store an answer in place of the former one."""
    row = {"rollout_id": rollout_id, "name": name, **found._asdict()}
    many.upsert(connection, metric_answer, [row])
