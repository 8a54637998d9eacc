"""What becomes of telemetry with time: segments into sums, hours into days, and the end of both.

In small batches, apart from the intake of new segments; each is one transaction, so that nothing is
deleted that no sum holds, and nothing is in two sums. What was deleted is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from control_plane.store.pruning import WindowDay
from control_plane.store.tallies import DAY_S, Place, Sums, hour_of
from control_plane.telemetry import latency
from control_plane.telemetry.merge import merge
from firmware_bundles.errors import WireError
from firmware_bundles.sketches.codec import encode_sketch
from firmware_bundles.wire.columns import decode_predictions
from firmware_bundles.wire.messages import SegmentKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from control_plane.store.pruning import Old, Prune, Pruning
    from firmware_bundles.sketches.baseline import Baseline

_BATCH: Final = 500
# Merging a window takes about a tenth of a millisecond.
_WINDOWS: Final = 100
# Longer than a phase is watched: no gate asks for what is older.
_SERVICE_DAYS: Final = 40
_REST_S: Final = 60.0
# In a round: what takes longer goes on in the next, so that others write in between.
_SPELL_S: Final = 0.3
# What labels, values and pairs added up to, by device.
_COUNTS: Final = ("label_count", "outcome_count", "value_sum", "pair_count")
_NONE: Final = (0,) * latency.BUCKETS


class Periods(msgspec.Struct, frozen=True, kw_only=True):
    """How long each is kept, in days; 0 keeps it for ever.

    `segment_keys_days` is how long a segment that was deleted is known when it comes again;
    `report_incarnations_max` counts.
    """

    predictions_days: float = 14.0
    shadows_days: float = 14.0
    labels_days: float = 90.0
    windows_days: float = 35.0
    samples_days: float = 90.0
    pending_labels_days: float = 30.0
    hourly_days: float = 14.0
    daily_days: float = 800.0
    counts_days: float = 400.0
    segment_keys_days: float = 400.0
    report_incarnations_max: int = 1_000


class _Day(NamedTuple):
    started: int
    device_id: str
    family: str
    model: str


class Retention:
    """Deletes what is old. `baseline` finds that of a model, by which windows are merged."""

    def __init__(
        self,
        store: Pruning,
        periods: Periods,
        baseline: Callable[[str], Baseline | None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._periods = periods
        self._baseline = baseline
        self._clock = clock
        self._rests_until = 0.0

    def tick(self) -> None:
        """Delete what is old for a short while; look again later if nothing is left."""
        now = self._clock()
        # A clock that was set back must not stop it for long.
        if now < self._rests_until <= now + _REST_S:
            return
        while self.delete(now):
            if self._clock() - now >= _SPELL_S:
                return
        self._rests_until = now + _REST_S

    def delete(self, now: float) -> int:
        """Delete one batch of everything that is old at this time; return how many rows."""
        own = self._periods
        kinds = (
            (SegmentKind.PREDICTIONS, own.predictions_days),
            (SegmentKind.SHADOW, own.shadows_days),
            (SegmentKind.LABELS, own.labels_days),
            (SegmentKind.WINDOW, own.windows_days),
            (SegmentKind.SAMPLES, own.samples_days),
        )
        count = sum(self._segments(kind, days, now) for kind, days in kinds if days)
        longest = max(days for _, days in kinds)  # keys tell when a segment came
        with self._store.at(now) as prune:
            for table, days in (
                ("label_pending", own.pending_labels_days),
                ("feedback", own.segment_keys_days),
                ("segment_past", own.segment_keys_days and own.segment_keys_days + longest),
                ("service_count", _SERVICE_DAYS),
                *((table, own.counts_days) for table in _COUNTS),
            ):
                count += prune.rows(table, now - days * DAY_S, _BATCH) if days else 0
            if own.report_incarnations_max:
                count += prune.report_counters(own.report_incarnations_max)
        with self._store.at(now) as prune:
            if own.hourly_days:
                count += prune.hours(now - own.hourly_days * DAY_S)
            if own.daily_days:
                count += prune.days(now - own.daily_days * DAY_S, _BATCH)
        return count

    def _segments(self, kind: SegmentKind, days: float, now: float) -> int:
        limit = _WINDOWS if kind is SegmentKind.WINDOW else _BATCH
        with self._store.at(now) as prune:
            old = prune.segments(kind.value, now - days * DAY_S, limit)
            if old:
                prune.tally(sums_of(each for each in old if not each.is_tallied))
                if kind is SegmentKind.WINDOW:
                    self._merge(prune, old)
                prune.remove(old)
        return len(old)

    def _merge(self, prune: Prune, old: Sequence[Old]) -> None:
        """Add windows to their devices' days, exactly."""
        days: dict[_Day, list[Old]] = {}
        for each in old:
            started = int(each.received) // DAY_S * DAY_S
            place = _Day(started, each.device_id, each.family, each.model)
            days.setdefault(place, []).append(each)
        for place, windows in days.items():
            known = prune.window_day(*place) or WindowDay(*place, 0, 0, 0, None)
            prune.keep_window_day(self._added(known, windows))

    def _added(self, known: WindowDay, windows: Sequence[Old]) -> WindowDay:
        baseline = self._baseline(known.model)
        if baseline is None:
            return known._replace(unreadable=known.unreadable + len(windows))
        before = [] if known.body is None else [known.body]
        found = merge(baseline, (each.body for each in windows))
        whole = merge(baseline, [*before, encode_sketch(found.sketch)])
        if whole.unreadable:  # the baseline fits no more: keep what there is
            return known._replace(unreadable=known.unreadable + len(windows))
        return known._replace(
            windows=known.windows + found.windows,
            unreadable=known.unreadable + found.unreadable,
            rows=whole.sketch.rows,
            body=encode_sketch(whole.sketch) if found.windows or before else None,
        )


def sums_of(old: Iterable[Old]) -> list[tuple[Place, Sums]]:
    """Sum up segments by hour and place."""
    found: dict[Place, Sums] = {}
    for each in old:
        place = Place(hour_of(each.received), each.device_id, each.family, each.model, each.kind)
        sums = _sums(each)
        found[place] = found[place].plus(sums) if place in found else sums
    return list(found.items())


def _sums(old: Old) -> Sums:
    counts, total = _NONE, old.latency_us or 0
    if old.kind in {SegmentKind.PREDICTIONS, SegmentKind.SHADOW}:
        try:
            rows = decode_predictions(old.body)
        except WireError:  # it was read when it came; counted all the same
            rows = None
        if rows is not None:
            counts = tuple(latency.histogram(rows.latency_us).tolist())
            total = total or int(rows.latency_us.sum())
    answered = old.rows if old.answered is None else old.answered
    return Sums(1, old.rows, answered, total, counts)
