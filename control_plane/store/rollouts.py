"""Rollouts and their decisions, as stored.

What the fleet says of a rollout is counted in `rollout_counts`, orders are carried out in
`rollout_orders`; what to make of it all is the planner's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import insert, select, update

from control_plane.audit import SERVICE
from control_plane.rollouts import later
from control_plane.rollouts.model import (
    OPEN_STATES,
    Approval,
    FleetView,
    Joined,
    Order,
    Plan,
    Rollout,
    Standing,
    devices_of,
)
from control_plane.rollouts.planner import moved
from control_plane.rollouts.spec import RolloutSpec
from control_plane.store import (
    audit,
    metric_answers,
    rollout_audit,
    rollout_counts,
    rollout_joining,
    rollout_members,
    rollout_orders,
    rollout_reasons,
    rollout_rivals,
    rollout_upholding,
)
from control_plane.store.rollout_counts import DeploymentRow
from control_plane.store.schema import approval as approvals
from control_plane.store.schema import decision, deployment, device, rollout
from firmware_bundles.errors import ConflictError, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Row, Select

    from control_plane.audit import Statement
    from control_plane.fleet.selectors import Selector
    from control_plane.rollouts.evidence import Metric
    from control_plane.rollouts.selection import LeftOut
    from control_plane.store.database import Database
    from control_plane.store.rollout_reasons import Interval, Reason
    from control_plane.store.rollout_rivals import Rival


class Decision(NamedTuple):
    """One decision as stored."""

    generation: int
    at: float
    state: str
    phase: int
    phase_state: str
    why: list[str]
    gates: list[dict[str, Any]]


class Rollouts:
    """All rollouts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        wanted: Rollout,
        members: Selector,
        by: str = SERVICE,
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        """Store a new rollout over the devices selected now, in the order that its id gives them.

        `left_out` are those of its cohort that it is not for. Raises ConflictError if the id is
        taken, or another open rollout of the family and priority has one of the devices,
        RolloutInvalid if rollouts of higher priority have all.
        """
        with self._database.transaction() as connection:
            if connection.execute(select(rollout.c.id).where(rollout.c.id == wanted.id)).first():
                raise ConflictError(
                    f"there is already a rollout {wanted.id!r}", hint="Choose another id."
                )
            connection.execute(insert(rollout).values(_stored(wanted)))
            enlisted = rollout_members.enlist(connection, wanted, members, left_out)
            why = (f"created by {wanted.created_by}", *enlisted.told)
            created = Plan(next=wanted.standing, why=why)
            _record(connection, wanted.id, wanted.standing, wanted.created, created)
            told = _tell_rivals(connection, wanted, enlisted.taken, wanted.created)
            began = rollout_audit.of_creation(wanted, enlisted.devices, by)
            audit.append(connection, began, *told)

    def join(self, before: Rollout, members: Selector, now: float) -> int:
        """Let selected devices join that the rollout does not have yet; return how many did.

        Raises ConflictError if somebody decided since `before` was loaded.
        """
        with self._database.reading() as connection:
            if not rollout_joining.has_later(connection, before, members):
                return 0
        with self._database.transaction() as connection:
            joined = rollout_joining.join(connection, before, members)
            if joined is None:
                return 0
            plan = Plan(next=moved(before.standing), why=joined.told)
            _advance(connection, before, plan, now)
            noted = msgspec.to_builtins([*before.joined, joined.joined])
            connection.execute(
                update(rollout).where(rollout.c.id == before.id).values(joined=noted)
            )
            told = _tell_rivals(connection, before, joined.taken, now)
            audit.append(connection, rollout_audit.of_decision(before, plan, now, SERVICE), *told)
        return joined.joined.devices

    def join_later(self, before: Rollout, members: Selector, now: float) -> int:
        """Let selected devices join after the end that no other rollout has; return how many did.

        Raises ConflictError if somebody decided since `before` was loaded.
        """
        with self._database.reading() as connection:
            if not rollout_upholding.has_newcomers(connection, before, members):
                return 0
        with self._database.transaction() as connection:
            count, told = rollout_upholding.join(connection, before, members)
            if count:
                plan = Plan(next=moved(before.standing), why=(told,))
                _advance(connection, before, plan, now)
                joined = msgspec.to_builtins(rollout_upholding.noted(before, count))
                own = update(rollout).where(rollout.c.id == before.id)
                connection.execute(own.values(joined=joined))
                audit.append(connection, rollout_audit.of_decision(before, plan, now, SERVICE))
        return count

    def dismiss(self, before: Rollout, now: float) -> int:
        """Give up the devices that lost their access meanwhile; return how many.

        Raises ConflictError if somebody decided since `before` was loaded.
        """
        with self._database.reading() as connection:
            if not rollout_joining.has_gone(connection, before):
                return 0
        with self._database.transaction() as connection:
            count = rollout_joining.dismiss(connection, before)
            if count:
                why = (f"given up, for they lost their access: {devices_of(count)}",)
                plan = Plan(next=moved(before.standing), why=why)
                _advance(connection, before, plan, now)
                audit.append(connection, rollout_audit.of_decision(before, plan, now, SERVICE))
        return count

    def get(self, rollout_id: str) -> Rollout:
        """Return a rollout. Raises NotFound."""
        found = self._load(select(rollout).where(rollout.c.id == rollout_id))
        if not found:
            raise NotFound(f"there is no rollout {rollout_id!r:.80}")
        return found[0]

    def all(self) -> list[Rollout]:
        """Return all rollouts, the newest first."""
        return self._load(select(rollout).order_by(rollout.c.created.desc(), rollout.c.id))

    def open(self) -> list[Rollout]:
        """Return the rollouts that somebody has to look after."""
        query = select(rollout).where(rollout.c.state.in_(sorted(OPEN_STATES)))
        return self._load(query.order_by(rollout.c.created, rollout.c.id))

    def upheld(self) -> list[Rollout]:
        """Return the completed rollouts that devices which come now belong to, newest first."""
        with self._database.reading() as connection:
            withdrawn = rollout_upholding.withdrawn(connection)
        return list(later.upheld(self._load(rollout_upholding.completed()), withdrawn))

    def wanting(self, rollout_id: str) -> Rollout | None:
        """Return a rollout if devices that came after its end lack an offer, or are silent."""
        found = self.get(rollout_id)
        with self._database.reading() as connection:
            is_wanting = found.later > 0 and rollout_upholding.is_wanting(connection, found)
        return found if is_wanting else None

    def decisions(self, rollout_id: str) -> list[Decision]:
        """Return all decisions on a rollout, the first one first."""
        query = (
            select(*(decision.c[name] for name in Decision._fields))
            .where(decision.c.rollout_id == rollout_id)
            .order_by(decision.c.id)
        )
        with self._database.reading() as connection:
            return [Decision._make(row) for row in connection.execute(query)]

    def view(self, wanted: Rollout) -> FleetView:
        """Return what the fleet says of a rollout now."""
        with self._database.reading() as connection:
            return rollout_counts.view(connection, wanted)

    def metrics(self, wanted: Rollout) -> tuple[tuple[str, Metric], ...]:
        """Return what metric servers answered last for a rollout, by the names of its gates."""
        with self._database.reading() as connection:
            return metric_answers.last(connection, wanted)

    def keep_metric(self, wanted: Rollout, name: str, found: Metric) -> None:
        """Store what a metric server answered, as evidence for a gate of this name."""
        with self._database.transaction() as connection:
            metric_answers.keep(connection, wanted.id, name, found)

    def deployments(
        self, wanted: Rollout, after: int = -1, limit: int | None = None
    ) -> list[DeploymentRow]:
        """Return where devices of a rollout stand, at most `limit` after a position, in order."""
        with self._database.reading() as connection:
            return rollout_counts.deployments(connection, wanted, after, limit)

    def reasons(self, wanted: Rollout) -> list[Reason]:
        """Return why devices of a rollout failed, the most frequent reason first."""
        with self._database.reading() as connection:
            return rollout_reasons.reasons(connection, wanted)

    def labels_over_time(self, wanted: Rollout, since: float, width_s: float) -> list[Interval]:
        """Return what labels said of both arms in each interval since then."""
        with self._database.reading() as connection:
            return rollout_reasons.labels_over_time(connection, wanted, since, width_s)

    def silent(self, wanted: Rollout) -> list[str]:
        """Return the devices online that said nothing since they were told what to run."""
        with self._database.reading() as connection:
            return rollout_counts.silent(connection, wanted)

    def save(self, before: Rollout, plan: Plan, now: float, by: str = SERVICE) -> Rollout:
        """Store a decision of the actor `by`, if nobody decided since `before` was loaded.

        Raises ConflictError.
        """
        after = msgspec.structs.replace(before, standing=plan.next)
        with self._database.transaction() as connection:
            _advance(connection, before, plan, now)
            if plan.is_retry:
                devices = rollout_counts.broken(connection, before)
                rollout_orders.forget_offers(connection, before, devices)
            if after.is_open and not before.is_open:
                _refuse_equals(connection, after)
            audit.append(connection, rollout_audit.of_decision(before, plan, now, by))
        return after

    def approve(self, before: Rollout, plan: Plan, approval: Approval, by: str) -> Rollout:
        """Store somebody's word that a phase may begin, if nobody decided since.

        Raises ConflictError.
        """
        row = {"rollout_id": before.id, **msgspec.structs.asdict(approval)}
        with self._database.transaction() as connection:
            _advance(connection, before, plan, approval.at)
            connection.execute(insert(approvals).values(row))
            audit.append(connection, rollout_audit.of_approval(before, approval, by))
        return msgspec.structs.replace(
            before, standing=plan.next, approvals=(*before.approvals, approval)
        )

    def carry_out(self, wanted: Rollout, order: Order, now: float) -> list[str]:
        """Do an order for the next devices that lack it; return them, none when all have it.

        A device is marked and told what to run in one transaction. Raises ConflictError if somebody
        decided since `wanted` was loaded.
        """
        with self._database.transaction() as connection:
            # Who decides meanwhile waits, so no offer follows a decision that ends offers.
            own = select(rollout.c.id).where(_is_same(wanted))
            own = own.with_for_update(read=order.reached_max is None)
            if connection.execute(own).first() is None:
                raise _outrun(wanted)
            devices = rollout_orders.carry_out(connection, wanted, order, now)
            if devices:
                told = rollout_audit.of_order(wanted, order, len(devices), now)
                audit.append(connection, told)
        return devices

    def _load(self, query: Select[Any]) -> list[Rollout]:
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            given = _approvals(connection, [row.id for row in rows])
        return [_loaded(row, given.get(row.id, ())) for row in rows]


def _approvals(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[Approval, ...]]:
    found: dict[str, tuple[Approval, ...]] = {}
    query = select(approvals).where(approvals.c.rollout_id.in_(ids)).order_by(approvals.c.at)
    for row in connection.execute(query):
        given = Approval(phase=row.phase, by=row.by, at=row.at)
        found[row.rollout_id] = (*found.get(row.rollout_id, ()), given)
    return found


def _advance(connection: Connection, before: Rollout, plan: Plan, now: float) -> None:
    """Store a decision in the caller's transaction. Raises ConflictError."""
    assert plan.next.generation == before.standing.generation + 1
    changed = connection.execute(
        update(rollout).where(_is_same(before)).values(_standing(plan.next))
    )
    if not changed.rowcount:
        raise _outrun(before)
    _record(connection, before.id, plan.next, now, plan)


def _stored(wanted: Rollout) -> dict[str, Any]:
    return {
        "id": wanted.id,
        "family": wanted.spec.family,
        "release_path": wanted.release_path,
        "spec": msgspec.to_builtins(wanted.spec),
        "created": wanted.created,
        "created_by": wanted.created_by,
        "priority": wanted.spec.priority,
        **_standing(wanted.standing),
    }


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "state": standing.state.value,
        "phase": standing.phase,
        "phase_state": standing.phase_state.value,
        "phase_since": standing.since,
        "generation": standing.generation,
    }


def _loaded(row: Row[Any], given: tuple[Approval, ...] = ()) -> Rollout:
    standing = {
        "state": row.state,
        "phase": row.phase,
        "phase_state": row.phase_state,
        "since": row.phase_since,
        "generation": row.generation,
    }
    return Rollout(
        id=row.id,
        spec=msgspec.convert(row.spec, RolloutSpec),
        release_path=row.release_path,
        standing=msgspec.convert(standing, Standing),
        created=row.created,
        created_by=row.created_by,
        approvals=given,
        joined=msgspec.convert(row.joined, tuple[Joined, ...]),
    )


def _record(
    connection: Connection, rollout_id: str, standing: Standing, now: float, plan: Plan
) -> None:
    connection.execute(
        insert(decision).values(
            rollout_id=rollout_id,
            generation=standing.generation,
            at=now,
            state=standing.state.value,
            phase=standing.phase,
            phase_state=standing.phase_state.value,
            why=list(plan.why),
            gates=msgspec.to_builtins(plan.findings),
        )
    )


def _is_same(before: Rollout) -> Any:  # noqa: ANN401 - a condition
    return (rollout.c.id == before.id) & (rollout.c.generation == before.standing.generation)


def _outrun(before: Rollout) -> ConflictError:
    return ConflictError(
        f"rollout {before.id} has been changed since generation {before.standing.generation}"
    )


def _refuse_equals(connection: Connection, wanted: Rollout) -> None:
    """Raise ConflictError if another open rollout of this priority has a device of this one."""
    own = select(deployment.c.device_id).where(deployment.c.rollout_id == wanted.id)
    rollout_rivals.shared(connection, wanted, device.c.id.in_(own))


def _tell_rivals(
    connection: Connection, wanted: Rollout, taken: Mapping[Rival, int], now: float
) -> list[Statement]:
    """Let rollouts that lost devices know, so that they plan anew and say so."""
    told: list[Statement] = []
    for rival, count in taken.items():
        row = connection.execute(select(rollout).where(rollout.c.id == rival.id)).one()
        loser = _loaded(row)
        what = (
            f"lost to rollout {wanted.id}, which has priority {wanted.spec.priority} over "
            f"{rival.priority}: {count} without an offer yet"
        )
        plan = Plan(next=moved(loser.standing), why=(what,))
        _advance(connection, loser, plan, now)
        told.append(rollout_audit.of_decision(loser, plan, now, SERVICE))
    return told
