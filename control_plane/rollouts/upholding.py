"""Lets devices that come after a rollout's end have its release: finds them, and offers to them.

Who is found, and which rollout is upheld for whom, is decided in `later` and by the store's
condition. A look at the whole fleet costs time, so each is followed by a much longer pause.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from control_plane.rollouts.enlisting import Pauses
from control_plane.rollouts.selection import choose
from firmware_bundles.errors import ConflictError, NotFound, SelectorInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.rollouts.draft import Releases
    from control_plane.rollouts.executor import Executor
    from control_plane.rollouts.model import Rollout
    from control_plane.rollouts.selection import Fleet
    from control_plane.store.rollouts import Rollouts

_LOG: Final = logging.getLogger(__name__)


class Upholding:
    """Looks after the cohorts of completed rollouts. `executor` is its own, no other thread's."""

    def __init__(
        self,
        rollouts: Rollouts,
        releases: Releases,
        fleet: Fleet,
        executor: Executor,
        clock: Callable[[], float],
    ) -> None:
        self._rollouts = rollouts
        self._releases = releases
        self._fleet = fleet
        self._executor = executor
        self._pauses = Pauses(clock)
        self._clock = clock

    def tick(self) -> None:
        """Let devices that came since have what their cohort runs; no more often than is due."""
        with self._pauses.look() as is_due:
            # The newest first: where a device belongs to two cohorts, the later rollout has it.
            for rollout in self._rollouts.upheld() if is_due else ():
                self._take_in(rollout)
                if (joined := self._rollouts.wanting(rollout.id)) is not None:
                    self._executor.look_after(joined)

    def _take_in(self, rollout: Rollout) -> None:
        spec = rollout.spec
        try:
            release = self._releases.find(spec.family, spec.release)
            chosen = choose(spec, self._releases.manifest(release.digest).needs, self._fleet)
            joined = self._rollouts.join_later(rollout, chosen.members, self._clock())
        except (ConflictError, NotFound, SelectorInvalid) as error:
            _LOG.info("nobody joins rollout=%s reason=%s", rollout.id, error)
        except Exception:  # noqa: BLE001 logged; one rollout must not hold up the others
            _LOG.exception("rollout is not upheld rollout=%s", rollout.id)
        else:
            if joined:
                _LOG.info("devices joined after the end rollout=%s devices=%d", rollout.id, joined)
