"""Lets devices that enrol, or match later, join the rollouts of their cohort while these run.

Those that lost their access are given up, so that no rollout waits for them.

A look at the whole fleet costs time, so each is followed by a pause that is much longer than it.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from control_plane.rollouts.model import joining_phase
from control_plane.rollouts.selection import choose
from firmware_bundles.errors import ConflictError, NotFound, SelectorInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from control_plane.rollouts.draft import Releases
    from control_plane.rollouts.model import Rollout
    from control_plane.rollouts.selection import Fleet
    from control_plane.store.rollouts import Rollouts

_LOG: Final = logging.getLogger(__name__)
LOOK_S: Final = 15.0
_SHARE_OF_TIME: Final = 0.05


class Pauses:
    """Says when a look is due: between two lies much more time than the first one took."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = float("-inf")

    @contextmanager
    def look(self) -> Iterator[bool]:
        """Say whether a look is due, which the block then takes."""
        began = self._clock()
        if began < self._next:
            yield False
            return
        yield True
        ended = self._clock()
        self._next = ended + max(LOOK_S, max(ended - began, 0.0) / _SHARE_OF_TIME)


class Enlisting:
    """Looks after the cohorts of open rollouts."""

    def __init__(
        self,
        rollouts: Rollouts,
        releases: Releases,
        fleet: Fleet,
        clock: Callable[[], float],
    ) -> None:
        self._rollouts = rollouts
        self._releases = releases
        self._fleet = fleet
        self._clock = clock
        self._pauses = Pauses(clock)

    def tick(self) -> None:
        """Let every open rollout have the devices that came since; no more often than is due."""
        with self._pauses.look() as is_due:
            for rollout in self._rollouts.open() if is_due else ():
                self._look(rollout)

    def _look(self, rollout: Rollout) -> None:
        spec = rollout.spec
        try:
            if gone := self._rollouts.dismiss(rollout, self._clock()):
                _LOG.info("devices lost their access rollout=%s devices=%d", rollout.id, gone)
                return
            if joining_phase(rollout) is None:
                return
            release = self._releases.find(spec.family, spec.release)
            if release.is_withdrawn:
                return
            chosen = choose(spec, self._releases.manifest(release.digest).needs, self._fleet)
            joined = self._rollouts.join(rollout, chosen.members, self._clock())
        except (ConflictError, NotFound, SelectorInvalid) as error:
            _LOG.info("nobody joins rollout=%s reason=%s", rollout.id, error)
        except Exception:  # noqa: BLE001 logged; one rollout must not hold up the others
            _LOG.exception("rollout is not looked after rollout=%s", rollout.id)
        else:
            if joined:
                _LOG.info("devices joined rollout=%s devices=%d", rollout.id, joined)
