"""Carries plans out: load, plan, store, then do. It decides nothing.

Any number may run at once, and any may die anywhere: a decision is stored by compare-and-swap, an
order is done for the devices that lack it, and what was not done is ordered again by the next plan.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.rollouts.planner import plan
from firmware_bundles.errors import ConflictError, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.rollouts.model import Rollout
    from control_plane.store.rollouts import Rollouts

_LOG: Final = logging.getLogger(__name__)
REMIND_S: Final = 30.0
# Of one processor, at most, for a rollout in which nothing is due: counting a million devices takes
# seconds, counting ten thousand less than the time between two ticks.
SHARE_OF_TIME: Final = 0.2


class _Rest(NamedTuple):
    """For how long a rollout is left alone, unless somebody decides on it."""

    generation: int
    since: float
    seconds: float

    def is_over(self, rollout: Rollout, now: float) -> bool:
        """Whether it is; the clock may have been set back."""
        is_same = rollout.standing.generation == self.generation
        return not (is_same and self.since <= now < self.since + self.seconds)


class Executor:
    """Looks after the open rollouts. `push` tells devices what they shall run now."""

    def __init__(
        self,
        rollouts: Rollouts,
        push: Callable[[Sequence[str]], None],
        clock: Callable[[], float],
    ) -> None:
        self._rollouts = rollouts
        self._push = push
        self._clock = clock
        self._reminded: dict[str, float] = {}
        self._rests: dict[str, _Rest] = {}

    def tick(self) -> None:
        """Bring every open rollout as far as it gets now."""
        found = self._rollouts.open()
        ids = {rollout.id for rollout in found}
        self._reminded = {key: at for key, at in self._reminded.items() if key in ids}
        self._rests = {key: rest for key, rest in self._rests.items() if key in ids}
        for rollout in found:
            rest = self._rests.get(rollout.id)
            if rest is None or rest.is_over(rollout, self._clock()):
                self.look_after(rollout)

    def look_after(self, rollout: Rollout) -> None:
        """Bring a rollout as far as it gets now."""
        try:
            began = self._clock()
            self._remind(rollout)
            if not self._advance(rollout):
                self._rest(rollout, began)
        except ConflictError as error:
            _LOG.info("somebody was faster rollout=%s reason=%s", rollout.id, error)
        except Exception:  # noqa: BLE001 logged; one rollout must not hold up the others
            _LOG.exception("rollout is not looked after rollout=%s", rollout.id)

    def _advance(self, rollout: Rollout) -> bool:
        """Return whether anything was due."""
        now = self._clock()
        before = rollout.standing
        planned = plan(rollout, self._rollouts.view(rollout), now)
        if planned.next != before:
            rollout = self._rollouts.save(rollout, planned, now)
            for sentence in planned.why:
                _LOG.info("decided rollout=%s why=%s", rollout.id, sentence)
        for order in planned.orders:
            while devices := self._rollouts.carry_out(rollout, order, now):
                self._tell(devices)
        return planned.next != before or bool(planned.orders)

    def _rest(self, rollout: Rollout, began: float) -> None:
        """Leave a rollout alone in which nothing was due, for as long as the look was dear."""
        ended = self._clock()
        generation = rollout.standing.generation
        self._rests[rollout.id] = _Rest(generation, ended, (ended - began) / SHARE_OF_TIME)

    def _remind(self, rollout: Rollout) -> None:
        # A push may be lost, with this process or with the broker; hellos come only on connects.
        now = self._clock()
        if now - self._reminded.get(rollout.id, 0.0) >= REMIND_S:
            self._reminded[rollout.id] = now
            self._tell(self._rollouts.silent(rollout))

    def _tell(self, devices: Sequence[str]) -> None:
        try:
            if devices:
                self._push(devices)
        except TransferError as error:
            _LOG.warning("devices are told later devices=%d reason=%s", len(devices), error)
