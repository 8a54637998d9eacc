"""The drift of cohorts: their latest windows, merged for each model, beside its baseline."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.telemetry.drift import Distance, distances
from control_plane.telemetry.merge import merge
from control_plane.telemetry.standing import latest
from firmware_bundles.sketches.skew import Skew, skews

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.store.telemetry import Telemetry
    from control_plane.store.watches import Watches
    from control_plane.telemetry.baselines import Baselines
    from control_plane.telemetry.standing import WatchRow
    from firmware_bundles.sketches.baseline import Baseline

WINDOWS_MAX: Final = 2_000  # in one answer; the newest ones


class ModelDrift(NamedTuple):
    """How far one model's merged windows are from its baseline, and how its devices stand.

    Those are the devices that send windows of it now. One distance and one skew a column, in the
    baseline's order.

    What retention merged for a device and day is one of `windows`.
    """

    family: str
    model: str
    version: str | None
    rows: int
    windows: int
    unreadable: int
    baseline_rows: int
    columns: list[Distance]
    skews: list[Skew]
    devices: list[WatchRow]


class CohortDrift:
    """Merges and compares on demand."""

    def __init__(
        self,
        telemetry: Telemetry,
        watches: Watches,
        baselines: Baselines,
        members: Callable[[str], Sequence[str]],
        clock: Callable[[], float],
    ) -> None:
        self._telemetry = telemetry
        self._watches = watches
        self._baselines = baselines
        self._members = members
        self._clock = clock

    def find(self, cohort: str | None, family: str | None, past_s: float) -> list[ModelDrift]:
        """Return the drift of every model with windows that came within the last `past_s`.

        Cohort and family None mean all. Models without a baseline are left out. Raises NotFound for
        an unknown cohort.
        """
        devices = None if cohort is None else self._members(cohort)
        since = self._clock() - past_s
        standing = defaultdict(list)
        for row in latest(self._watches.rows(family, devices)):
            standing[row.key.family, row.key.model].append(row)
        found = []
        for group in self._telemetry.windows(family, devices, since, WINDOWS_MAX):
            baseline = self._baselines.find(group.model)
            if baseline is None:
                continue
            merged = merge(baseline, group.bodies)
            found.append(
                ModelDrift(
                    family=group.family,
                    model=group.model,
                    version=group.version,
                    rows=merged.sketch.rows,
                    windows=merged.windows,
                    unreadable=merged.unreadable,
                    baseline_rows=baseline.rows,
                    columns=distances(merged.sketch),
                    skews=_in_order(skews(merged.sketch), baseline),
                    devices=standing[group.family, group.model],
                )
            )
        return found


def _in_order(found: list[Skew], baseline: Baseline) -> list[Skew]:
    by_name = {(skew.kind, skew.column): skew for skew in found}
    return [by_name[column.kind, column.name] for column in baseline.columns]
