"""Latency by model and by one thing more: the arm, the device or the cohort. Sums of histograms."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from control_plane.telemetry.latency import percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.store.tallies import LatencyRow, Tallies
    from control_plane.telemetry.latency import Percentile

_SHARES = (0.5, 0.9, 0.99)


class By(StrEnum):
    """What a model's latency is told apart by."""

    MODEL = "model"
    ARM = "arm"
    DEVICE = "device"
    COHORT = "cohort"


class GroupLatency(NamedTuple):
    """The latency of one model's predictions in one group, whose name is empty where it has none.

    `answered` predictions took `mean_us` on average; `counted` of them are in the histogram: of a
    device that sends a sample, those of the sample.
    """

    family: str
    model: str
    version: str | None
    group: str
    devices: int
    answered: int
    mean_us: float
    counted: int
    p50: Percentile | None
    p90: Percentile | None
    p99: Percentile | None


class Latencies:
    """Adds up on demand."""

    def __init__(
        self,
        tallies: Tallies,
        members: Callable[[str], Sequence[str]],
        cohorts: Callable[[], Sequence[str]],
        clock: Callable[[], float],
    ) -> None:
        self._tallies = tallies
        self._members = members
        self._cohorts = cohorts
        self._clock = clock

    def find(
        self, cohort: str | None, family: str | None, past_s: float, by: By
    ) -> list[GroupLatency]:
        """Return the latency of what came within the last `past_s`, whole hours or days.

        Cohort and family None mean all. By cohort, a device counts in each that it belongs to.
        Raises NotFound for an unknown cohort.
        """
        devices = None if cohort is None else self._members(cohort)
        rows = self._tallies.latency(family, devices, self._clock() - past_s)
        return grouped(rows, self._groups_of(by, cohort))

    def _groups_of(self, by: By, cohort: str | None) -> Callable[[LatencyRow], Sequence[str]]:
        if by is By.ARM:
            return lambda row: (row.arm,)
        if by is By.DEVICE:
            return lambda row: (row.device_id,)
        if by is By.MODEL:
            return lambda _row: ("",)
        names = self._cohorts() if cohort is None else [cohort]
        of_device: dict[str, list[str]] = {}
        for name in names:
            for device_id in self._members(name):
                of_device.setdefault(device_id, []).append(name)
        return lambda row: of_device.get(row.device_id, ())


def grouped(
    rows: Sequence[LatencyRow], groups: Callable[[LatencyRow], Sequence[str]]
) -> list[GroupLatency]:
    """Add rows up by model and the groups that each belongs to. Pure."""
    found: dict[tuple[str, str, str], list[LatencyRow]] = {}
    for row in rows:
        for group in groups(row):
            found.setdefault((row.family, row.model, group), []).append(row)
    return [_group(name[2], found[name]) for name in sorted(found)]


def _group(name: str, rows: Sequence[LatencyRow]) -> GroupLatency:
    counts = [sum(column) for column in zip(*(row.counts for row in rows), strict=True)]
    answered = sum(row.answered for row in rows)
    p50, p90, p99 = (percentile(counts, share) for share in _SHARES)
    return GroupLatency(
        family=rows[0].family,
        model=rows[0].model,
        version=rows[0].version,
        group=name,
        devices=len({row.device_id for row in rows}),
        answered=answered,
        mean_us=sum(row.latency_us for row in rows) / max(answered, 1),
        counted=sum(counts),
        p50=p50,
        p90=p90,
        p99=p99,
    )
