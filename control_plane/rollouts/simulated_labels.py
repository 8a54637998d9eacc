"""Labels of a simulated fleet by arm, in the sums that the gates get. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from control_plane.rollouts.model import LabelCounts
from control_plane.rollouts.statistics import Arm
from control_plane.rollouts.world import Chance, World, arrivals, device_errors, hits

HISTORY_H: Final = 24.0
_HOUR_S: Final = 3_600.0


class Labels:
    """What labels said of each device since the phase began, and on the day before."""

    def __init__(self, chance: Chance, world: World) -> None:
        self._chance = chance
        self._world = world
        everyone = range(world.members) if world.labels_per_h else range(0)
        self._errors = [device_errors(chance, world) for _ in everyone]
        self._before = [self._history(errors) for errors in self._errors]
        self._labelled = [0] * len(self._errors)
        self._wrong = [0] * len(self._errors)

    def begin(self) -> None:
        """Forget what came before the phase that begins."""
        self._labelled = [0] * len(self._errors)
        self._wrong = [0] * len(self._errors)

    def pass_time(self, seconds: float, serves: Callable[[int], bool | None]) -> None:
        """Let labels come; `serves` says of a device whether it is the candidate, None: neither."""
        mean = self._world.labels_per_h * seconds / _HOUR_S
        for position, errors in enumerate(self._errors):
            is_candidate = serves(position)
            if is_candidate is None:
                continue
            share = min(errors + self._world.excess, 1.0) if is_candidate else errors
            came = arrivals(self._chance, mean)
            self._labelled[position] += came
            self._wrong[position] += hits(self._chance, came, share)

    def counts(self, positions: Iterable[int]) -> LabelCounts:
        """Return the labels of these devices as the gate gets them."""
        known = [each for each in positions if each < len(self._errors) and self._labelled[each]]
        labelled = sum(self._labelled[each] for each in known)
        return LabelCounts(
            labelled=labelled,
            wrong=sum(self._wrong[each] for each in known),
            by_device=Arm.of(
                since=[self._wrong[each] / self._labelled[each] for each in known],
                before=[self._before[each] for each in known],
                observations=labelled,
            ),
        )

    def _history(self, errors: float) -> float:
        came = arrivals(self._chance, self._world.labels_per_h * HISTORY_H)
        return hits(self._chance, came, errors) / came if came else self._world.errors
