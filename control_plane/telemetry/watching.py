"""Takes windows into the watches over their devices, in rounds beside the ingest.

What a window means is `standing`'s affair and pure; here windows are read, in order of time for
each device, and what they led to is stored together with how far they were read.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from control_plane.audit import SERVICE, Statement
from control_plane.store.watches import Promise, Taken
from control_plane.telemetry import standing
from control_plane.telemetry.standing import Watched
from firmware_bundles.errors import NotFound, ShoalError, WireError
from firmware_bundles.sketches.codec import parse_sketch
from firmware_bundles.sketches.performance import label_free
from firmware_bundles.sketches.watch import Span
from firmware_bundles.sketches.watch_codec import encode_watch, parse_watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.store.watches import Kept, WaitingWindow, Watches
    from control_plane.telemetry.baselines import Baselines
    from control_plane.telemetry.standing import Rules, WatchKey
    from firmware_bundles.sketches.baseline import Baseline

_LOG: Final = logging.getLogger(__name__)
WATCHES_MAX: Final = 64  # in one transaction
WINDOWS_MAX: Final = 64  # of one watch in one transaction
_ROUNDS_MAX: Final = 16
_OVERDUE: Final = 9.0
SETTLE_S_DEFAULT: Final = 30.0


class Watching:
    """Looks after all watches.

    Windows are taken when no other of their watch came for `settle_s`, and after ten times as long
    at the latest: after an outage the newest comes first, and is not to be tested before the rest.
    """

    def __init__(
        self,
        watches: Watches,
        baselines: Baselines,
        rules: Rules,
        clock: Callable[[], float],
        settle_s: float = SETTLE_S_DEFAULT,
    ) -> None:
        self._watches = watches
        self._baselines = baselines
        self._rules = rules
        self._clock = clock
        self._settle_s = settle_s

    def tick(self) -> None:
        """Take in what waits; after some rounds others have their turn."""
        before = self._clock() - self._settle_s
        overdue = before - _OVERDUE * self._settle_s
        for _ in range(_ROUNDS_MAX):
            keys = self._watches.waiting(before, overdue, WATCHES_MAX)
            if keys:
                self._watches.save([self._take(key, before) for key in keys])
            if len(keys) < WATCHES_MAX:
                return

    def commission_anew(self, device_id: str, family: str, by: str = SERVICE) -> int:
        """Forget the references of a device for this family's models; return how many it had.

        For a device whose surroundings changed for good; `by` is the actor that asks. Raises
        NotFound if there is none.
        """
        found = [row.key for row in self._watches.rows(family, [device_id])]
        if not found:
            raise NotFound(f"nothing is known of {family} on the device {device_id!r:.80}")
        taken = []
        for key in found:
            kept = self._watches.load(key)
            fresh = standing.anew(kept.standing)
            taken.append(Taken(key, kept.turn, None, fresh.standing, ()))
        told = {"family": family, "watches": len(taken)}
        subject = f"device/{device_id}"
        statement = Statement(self._clock(), by, "device.commissioned_anew", subject, told)
        return self._watches.save(taken, statement)

    def _take(self, key: WatchKey, before: float) -> Taken:
        kept = self._watches.load(key)
        windows = self._watches.windows(key, before, WINDOWS_MAX)
        baseline = self._baselines.find(key.model)
        if baseline is None:
            read = kept.standing.unreadable + len(windows)
            unread = kept.standing._replace(unreadable=read)
            return Taken(key, kept.turn, kept.body, unread, windows)
        watched = _opened(key, kept, baseline)
        promises = []
        for window in windows:
            watched, promise = _advance(watched, window, baseline, self._rules)
            promises.append(promise)
        body = encode_watch(watched.watch)
        return Taken(key, kept.turn, body, watched.standing, windows, promises)


def _opened(key: WatchKey, kept: Kept, baseline: Baseline) -> Watched:
    """Return what is kept; a watch that cannot be read begins anew, and the log says so."""
    if kept.body is None:
        return Watched(standing=kept.standing)
    try:
        return Watched(parse_watch(kept.body, baseline), kept.standing)
    except ShoalError as error:
        _LOG.warning(
            "watch begins anew device=%s model=%s code=%s", key.device_id, key.model, error.code
        )
        return standing.anew(kept.standing)


def _advance(
    watched: Watched, window: WaitingWindow, baseline: Baseline, rules: Rules
) -> tuple[Watched, Promise | None]:
    try:
        sketch = parse_sketch(window.body, baseline)
        taken = standing.take(watched, Span(sketch, window.started, window.ended), rules)
    except (WireError, ValueError):
        return standing.skip(watched), None
    found = label_free(sketch, is_drifting=False)
    return taken, None if found is None else Promise(found.rows, found.rows * found.accuracy)
