"""Carries plans out: load, plan, store, then do. It decides nothing.

Any number may run at once, and any may die anywhere: a decision is stored by compare-and-swap, an
order is done for the devices that lack it, and what was not done is ordered again by the next plan.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from control_plane.rollouts.planner import plan
from firmware_bundles.errors import ConflictError, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.rollouts.model import Rollout
    from control_plane.store.rollouts import Rollouts

_LOG: Final = logging.getLogger(__name__)
REMIND_S: Final = 30.0


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

    def tick(self) -> None:
        """Bring every open rollout as far as it gets now."""
        found = self._rollouts.open()
        ids = {rollout.id for rollout in found}
        self._reminded = {key: at for key, at in self._reminded.items() if key in ids}
        for rollout in found:
            self.look_after(rollout)

    def look_after(self, rollout: Rollout) -> None:
        """Bring a rollout as far as it gets now."""
        try:
            self._remind(rollout)
            self._advance(rollout)
        except ConflictError as error:
            _LOG.info("somebody was faster rollout=%s reason=%s", rollout.id, error)
        except Exception:  # noqa: BLE001 logged; one rollout must not hold up the others
            _LOG.exception("rollout is not looked after rollout=%s", rollout.id)

    def _advance(self, rollout: Rollout) -> None:
        now = self._clock()
        planned = plan(rollout, self._rollouts.view(rollout), now)
        if planned.next != rollout.standing:
            rollout = self._rollouts.save(rollout, planned, now)
            for sentence in planned.why:
                _LOG.info("decided rollout=%s why=%s", rollout.id, sentence)
        for order in planned.orders:
            while devices := self._rollouts.carry_out(rollout, order, now):
                self._tell(devices)

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
