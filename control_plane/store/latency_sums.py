"""The latency of a rollout's devices since a time and before it: its logarithm, or a percentile."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from sqlalchemy import or_

from control_plane.store import device_sums
from control_plane.store.device_sums import DeviceSums, Moments
from control_plane.store.schema import deployment, segment
from control_plane.telemetry.latency_bins import quantile
from firmware_bundles.wire.messages import Arm

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from control_plane.rollouts.gate_specs import LatencyGate
    from control_plane.rollouts.model import Rollout


def of_gate(
    connection: Connection, wanted: Rollout, gate: LatencyGate, since: float, first: float
) -> list[DeviceSums]:
    """Return what the gate compares, by device, in ln(1 + microseconds).

    `since` is the phase's first offer, `first` the rollout's. A percentile stands as if every
    answer had taken so long; of devices with too few answers for it there is none.
    """
    if gate.percentile is None:
        return device_sums.log_latencies(connection, wanted, since, first)
    share, rows_min = gate.percentile / 100, gate.answers_min
    found = [
        DeviceSums(device_id, arm, *(_moments(each, share, rows_min) for each in parts))
        for (device_id, arm), parts in _histograms(connection, wanted, since, first).items()
    ]
    return [each for each in found if each.since.n]


def _histograms(
    connection: Connection, wanted: Rollout, since: float, first: float
) -> dict[tuple[str, Arm], tuple[list[bytes], list[bytes]]]:
    """Return the histograms of segments by device: those before, and those since."""
    is_before, is_since = device_sums.periods(segment, since, first)
    columns = (is_since.label("is_since"), segment.c.latency_bins)
    query = (
        device_sums.of_devices(wanted, segment, first, columns)
        .where(segment.c.latency_bins.is_not(None), or_(is_before, is_since))
        .order_by(deployment.c.device_id)
    )
    found: defaultdict[tuple[str, Arm], tuple[list[bytes], list[bytes]]]
    found = defaultdict(lambda: ([], []))
    for device_id, arm, is_now, bins in connection.execute(query):
        found[device_id, Arm(arm)][bool(is_now)].append(bytes(bins))
    return found


def _moments(histograms: list[bytes], share: float, rows_min: int) -> Moments:
    found = quantile(b"".join(histograms), share)
    if found is None or found.rows < rows_min:
        return Moments()
    log = math.log1p(found.us)
    return Moments(found.rows, found.rows * log, found.rows * log**2)
