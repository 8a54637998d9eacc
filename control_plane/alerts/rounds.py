"""Looks at the fleet in rounds, and keeps alerts of what it finds."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.alerts import retraining, signals
from control_plane.alerts.decision import Alert, Signal, State, acknowledge, decide
from control_plane.alerts.retraining import Case
from control_plane.audit import SERVICE
from control_plane.telemetry.merge import merge
from control_plane.telemetry.standing import latest
from firmware_bundles.errors import ConflictError, NotFound
from firmware_bundles.sketches.performance import label_free

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from control_plane.alerts.decision import Rules, Step
    from control_plane.store.alerts import Alerts
    from control_plane.store.concerns import Concerns
    from control_plane.store.telemetry import Telemetry
    from control_plane.store.watches import Watches
    from control_plane.telemetry.baselines import Baselines
    from control_plane.telemetry.standing import WatchRow
    from firmware_bundles.sketches.baseline import Baseline

_LOG: Final = logging.getLogger(__name__)
SILENT_S: Final = 900.0
KEPT_S: Final = 400 * 86_400.0  # that an alert stays after it was over
_PRUNE_S: Final = 3_600.0
WINDOWS_MAX: Final = 500  # of a model that the label-free estimate is made from


class Sources(NamedTuple):
    """What is looked at; `members` are all cohorts with the devices that belong to them now."""

    alerts: Alerts
    watches: Watches
    concerns: Concerns
    telemetry: Telemetry
    baselines: Baselines
    members: Callable[[], Mapping[str, Sequence[str]]]


class Rounds:
    """Decides on all alerts. `silent_s` is how long a device may say nothing."""

    def __init__(
        self,
        sources: Sources,
        rules: Rules,
        clock: Callable[[], float],
        *,
        silent_s: float = SILENT_S,
        cohort: signals.Rules = signals.Rules(),  # noqa: B008 - a constant
    ) -> None:
        self._sources = sources
        self._rules = rules
        self._clock = clock
        self._silent_s = silent_s
        self._cohort = cohort
        self._started = clock()
        self._pruned = 0.0

    def tick(self) -> None:
        """Look once; each hour forget what has long been over."""
        now = self._clock()
        if now - self._pruned >= _PRUNE_S:
            self._pruned = now
            self._sources.alerts.prune(now - KEPT_S)
        found = {signal.key: signal for signal in self._look(now)}
        known = self._sources.alerts.latest()
        steps = [
            decide(known.get(key), found.get(key), now, self._rules)
            for key in dict.fromkeys([*found, *known])
        ]
        self._store([step for step in steps if step is not None], now)

    def acknowledge(self, number: int, by: str, actor: str = SERVICE, note: str = "") -> Alert:
        """Take notice of an alert in the name `by`; `actor` is who did for the audit log.

        Raises NotFound, and ConflictError when somebody did, or it is over.
        """
        alerts, now = self._sources.alerts, self._clock()
        found = alerts.find(number)
        if found is None:
            raise NotFound(f"there is no alert {number}")
        step = acknowledge(found, by, note, now)
        stored = alerts.save([step], now, actor) if step is not None else []
        if not stored:
            raise ConflictError(f"alert {number} is {_said(found)}")
        return stored[0]

    def _store(self, steps: list[Step], now: float) -> None:
        if not steps:
            return
        for alert in self._sources.alerts.save(steps, now):
            if now in {alert.raised, alert.resolved}:
                _LOG.warning(
                    "alert number=%d kind=%s state=%s what=%s",
                    alert.number,
                    alert.kind.value,
                    alert.state.value,
                    alert.summary,
                )

    def _look(self, now: float) -> list[Signal]:
        sources = self._sources
        rows = latest(sources.watches.rows())
        silent = sources.concerns.silent(now - self._silent_s)
        return [
            *signals.of_devices(rows),
            *signals.of_cohorts(rows, sources.members(), self._cohort),
            *signals.of_silence(silent, self._started, now, self._silent_s),
            *signals.of_counts(sources.concerns.counts()),
            *self._retraining(rows),
        ]

    def _retraining(self, rows: list[WatchRow]) -> list[Signal]:
        models: dict[tuple[str, str], list[WatchRow]] = defaultdict(list)
        for row in retraining.persisting(rows):
            models[row.key.family, row.key.model].append(row)
        found = []
        for (_, model), changed in models.items():
            baseline = self._sources.baselines.find(model)
            if baseline is not None:
                found.append(retraining.trigger(self._case(changed, baseline), baseline))
        return [signal for signal in found if signal is not None]

    def _case(self, changed: list[WatchRow], baseline: Baseline) -> Case:
        key, since = changed[0].key, retraining.since(changed)
        devices = [row.key.device_id for row in changed]
        groups = self._sources.telemetry.windows(key.family, devices, since, WINDOWS_MAX)
        bodies = [body for group in groups if group.model == key.model for body in group.bodies]
        return Case(
            family=key.family,
            model=key.model,
            version=changed[0].version,
            rows=changed,
            labels=self._sources.concerns.labels_since(key.family, key.model, devices, since),
            label_free=label_free(merge(baseline, bodies).sketch, is_drifting=True),
        )


def _said(alert: Alert) -> str:
    if alert.state is State.ACKNOWLEDGED:
        return f"acknowledged by {alert.acknowledged_by}"
    return alert.state.value
