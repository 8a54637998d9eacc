"""What the page shows, read at one moment. How it looks, the templates say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.alerts.decision import State
from control_plane.api.rollouts import RolloutDetail, detail
from control_plane.telemetry.apart import largest
from control_plane.telemetry.device_drift import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.alerts.decision import Alert
    from control_plane.fleet.cohorts import Cohorts
    from control_plane.store.alerts import Alerts, Counts
    from control_plane.store.overview import Fleet, Overview
    from control_plane.store.rollouts import Rollouts
    from control_plane.store.telemetry import AccuracyRow, Telemetry
    from control_plane.telemetry.cohort_drift import CohortDrift, ModelDrift
    from control_plane.telemetry.device_drift import DeviceDrift, DeviceDrifts

DEVICES_MAX: Final = 100
ROLLOUTS_MAX: Final = 6
COHORTS_MAX: Final = 12
DRIFT_PAST_S: Final = 900.0
ALERTS_MAX: Final = 20
BESIDE_MAX: Final = 16
_DRIFT_PERIOD_S: Final = 3.0
_BESIDE_PERIOD_S: Final = 10.0
_RATE_WIDTH_S: Final = 3.0
_RATE_POINTS: Final = 100
_ALL: Final = "all devices"
ACTIVE: Final = (State.OPEN, State.ACKNOWLEDGED)


class Rates(NamedTuple):
    """Predictions received a second, each over the interval that ends at its time."""

    times: list[float]
    values: list[float]

    @property
    def latest(self) -> float:
        """The newest rate; 0 where there is none."""
        return self.values[-1] if self.values else 0.0


class CohortLine(NamedTuple):
    """The drift of one cohort, by model."""

    name: str
    models: list[ModelDrift]


class ModelScore(NamedTuple):
    """Labels of one model over all devices."""

    family: str
    version: str | None
    model: str
    labelled: int
    wrong: int


class Snapshot(NamedTuple):
    """All that the page shows."""

    fleet: Fleet
    rates: Rates
    rollouts: list[RolloutDetail]
    rollouts_more: int
    drift: list[CohortLine]
    scores: list[ModelScore]
    alerts: list[Alert]
    alert_counts: Counts
    beside: list[DeviceDrift]


class Reader:
    """Takes snapshots; drift is compared anew only when windows came, and not too often."""

    def __init__(
        self,
        *,
        overview: Overview,
        telemetry: Telemetry,
        rollouts: Rollouts,
        cohorts: Cohorts,
        drift: CohortDrift,
        alerts: Alerts,
        devices: DeviceDrifts,
        clock: Callable[[], float],
    ) -> None:
        self._overview = overview
        self._telemetry = telemetry
        self._rollouts = rollouts
        self._cohorts = cohorts
        self._drift = drift
        self._alerts = alerts
        self._devices = devices
        self._clock = clock
        self._drift_lines: list[CohortLine] = []
        self._drift_at = 0.0
        self._drift_window = -1.0
        self._beside: list[DeviceDrift] = []
        self._beside_at = 0.0

    def read(self) -> Snapshot:
        """Return what there is to see now."""
        now = self._clock()
        found = self._rollouts.all()
        return Snapshot(
            fleet=self._overview.read(DEVICES_MAX),
            rates=self._rates(now),
            rollouts=[detail(self._rollouts, each, now) for each in found[:ROLLOUTS_MAX]],
            rollouts_more=max(0, len(found) - ROLLOUTS_MAX),
            drift=self._read_drift(now),
            scores=scores(self._telemetry.accuracy()),
            alerts=self._alerts.find_all(ACTIVE, limit=ALERTS_MAX),
            alert_counts=self._alerts.counts(),
            beside=self._read_beside(now),
        )

    def _rates(self, now: float) -> Rates:
        since = now - (_RATE_POINTS + 1) * _RATE_WIDTH_S
        return rates(self._telemetry.received_since(since), now, _RATE_WIDTH_S, _RATE_POINTS)

    def _read_beside(self, now: float) -> list[DeviceDrift]:
        if abs(now - self._beside_at) >= _BESIDE_PERIOD_S:
            self._beside_at = now
            question = Question(cohort=None, device=None, family=None, past_s=DRIFT_PAST_S)
            self._beside = farthest(self._devices.find(question))
        return self._beside

    def _read_drift(self, now: float) -> list[CohortLine]:
        if abs(now - self._drift_at) < _DRIFT_PERIOD_S:
            return self._drift_lines
        window = self._telemetry.latest_window()
        if window != self._drift_window:
            names = [cohort.name for cohort in self._cohorts.all()[:COHORTS_MAX]]
            lines = [CohortLine(_ALL, self._drift.find(None, None, DRIFT_PAST_S))]
            lines += [
                CohortLine(name, self._drift.find(name, None, DRIFT_PAST_S)) for name in names
            ]
            self._drift_lines = [line for line in lines if line.models]
            self._drift_window = window
        self._drift_at = now
        return self._drift_lines


def farthest(found: Sequence[DeviceDrift]) -> list[DeviceDrift]:
    """Return the devices to look at first: those that changed, then those farthest from theirs."""
    return sorted(
        found,
        key=lambda each: (
            each.row is None or not each.row.standing.is_changed,
            -largest(each.columns),
            each.device_id,
        ),
    )[:BESIDE_MAX]


def rates(received: Sequence[tuple[float, int]], now: float, width_s: float, points: int) -> Rates:
    """Return the rates of the last `points` whole intervals before now.

    Intervals before the first prediction are left out.
    """
    last = int(now / width_s)
    counts: dict[int, int] = {}
    for at, rows in received:
        counts[int(at / width_s)] = counts.get(int(at / width_s), 0) + rows
    if not counts:
        return Rates([], [])
    shown = range(max(min(counts), last - points), last)
    return Rates(
        [(interval + 1) * width_s for interval in shown],
        [round(counts.get(interval, 0) / width_s, 1) for interval in shown],
    )


def scores(rows: Sequence[AccuracyRow]) -> list[ModelScore]:
    """Return the labels counted for each model over all devices."""
    found: dict[str, ModelScore] = {}
    for row in rows:
        old = found.get(row.model, ModelScore(row.family, row.version, row.model, 0, 0))
        found[row.model] = old._replace(
            labelled=old.labelled + row.labelled, wrong=old.wrong + row.wrong
        )
    return sorted(found.values(), key=lambda score: (score.family, score.version or ""))
