"""What a rollout's gates ask of telemetry, gathered; what no gate asks for is not looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, select

from control_plane.rollouts.evidence import Arms, Evidence, Promised
from control_plane.rollouts.gates import label_free, latency
from control_plane.rollouts.statistics import Arm as Sums
from control_plane.store import device_sums, latency_sums, metric_answers, pair_sums
from control_plane.store.pruning import deleted_until
from control_plane.store.schema import deployment, release, reported, rollout
from control_plane.store.watch_schema import watch
from firmware_bundles.sketches.watch import State
from firmware_bundles.wire.messages import Arm, SegmentKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row

    from control_plane.rollouts.model import Rollout

# Which segments gates read themselves; others read what was counted when it came.
_READS: Final = {
    latency.NAME: SegmentKind.PREDICTIONS,
    label_free.NAME: SegmentKind.WINDOW,
}


def gather(
    connection: Connection, wanted: Rollout, since: float | None, first: float | None
) -> Evidence:
    """Return the evidence since the watched phase's first offer, `since`.

    `first` is the rollout's first offer: what was before it is a device's history.
    """
    gates = wanted.gates
    metrics = metric_answers.last(connection, wanted) if gates.metrics else ()
    if since is None or first is None:
        return Evidence(metrics=metrics)
    is_paired = gates.shadow_pairs or gates.agreement
    found = Evidence(metrics=metrics, deleted=_deleted(connection, since))
    if is_paired:
        found = found._replace(pairs=pair_sums.count(connection, wanted, since))
    if gates.latency:
        devices = latency_sums.of_gate(connection, wanted, gates.latency, since, first)
        found = found._replace(latency=_arms(device_sums.arms(devices)))
    if gates.errors:
        devices = device_sums.failures(connection, wanted, since, first)
        found = found._replace(failed=_arms(device_sums.arms(devices)))
    if gates.crashes:
        devices = device_sums.deaths(connection, wanted, since, first)
        found = found._replace(deaths=_arms(device_sums.arms(devices)))
    if gates.label_free_accuracy:
        found = found._replace(promised=_promised(connection, wanted, since, first))
    if gates.energy:
        devices = device_sums.log_watts(connection, wanted, since, first)
        found = found._replace(watts=_arms(device_sums.arms(devices)))
    if gates.drift:
        found = found._replace(changed=_changed(connection, wanted, since))
    named = {}
    for gate in gates.values:
        devices = device_sums.values(connection, wanted, gate.name, since, first)
        named[gate.name] = _arms(device_sums.arms(devices))
    return found._replace(values=tuple(named.items()))


def _deleted(connection: Connection, since: float) -> tuple[str, ...]:
    """Return the gates of which segments are deleted that came since."""
    found = {gate: deleted_until(connection, kind.value) for gate, kind in _READS.items()}
    return tuple(gate for gate, until in found.items() if until is not None and until >= since)


def _arms(sums: dict[Arm, Sums]) -> Arms:
    return Arms(sums[Arm.CANDIDATE], sums[Arm.CONTROL])


def _promised(connection: Connection, wanted: Rollout, since: float, first: float) -> Promised:
    """Sum up what confidences promise, without devices whose input is changed now."""
    devices = device_sums.promises(connection, wanted, since, first)
    changed = {row.device_id for row in _watched(connection, wanted) if row.is_changed}
    sound = [each for each in devices if each.device_id not in changed]
    arms = [each.arm for each in devices if each.device_id in changed]
    drifting = arms.count(Arm.CANDIDATE), arms.count(Arm.CONTROL)
    return Promised(_arms(device_sums.arms(sound)), drifting)


def _changed(connection: Connection, wanted: Rollout, since: float) -> Arms:
    """Sum up which devices' input changed since, of those about which their watch is sure."""
    rows = _watched(connection, wanted)
    sides: list[Sums] = []
    for side in (True, False):
        bits = [
            float(row.is_changed and row.changed is not None and row.changed >= since)
            for row in rows
            if bool(row.is_candidate) is side
        ]
        sides.append(Sums.of(since=bits, before=[0.0] * len(bits), observations=len(bits)))
    return Arms(*sides)


def _watched(connection: Connection, wanted: Rollout) -> Sequence[Row[Any]]:
    """Return what the watches say of devices of both arms, of those that are sure."""
    is_offered = and_(deployment.c.generation > 0, deployment.c.mode == "serve")
    is_candidate = watch.c.model == release.c.digest
    query = (
        select(
            deployment.c.device_id,
            is_offered.label("is_candidate"),
            case((watch.c.state == State.CHANGED.value, 1), else_=0).label("is_changed"),
            watch.c.changed,
        )
        .select_from(deployment)
        .join(rollout, rollout.c.id == deployment.c.rollout_id)
        .join(release, release.c.path == rollout.c.release_path)
        .join(
            reported,
            and_(
                reported.c.device_id == deployment.c.device_id,
                reported.c.family == rollout.c.family,
            ),
        )
        .join(
            watch,
            and_(
                watch.c.device_id == deployment.c.device_id,
                watch.c.family == rollout.c.family,
                watch.c.model == reported.c.serving_digest,
            ),
        )
        .where(
            deployment.c.rollout_id == wanted.id,
            deployment.c.generation >= 0,  # others follow another rollout
            watch.c.state.in_([State.STABLE.value, State.CHANGED.value]),
            is_candidate == is_offered,
        )
    )
    return connection.execute(query).all()
