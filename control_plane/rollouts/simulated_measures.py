"""What a simulated fleet measures by device: latency, failures, deaths, drift and power. Pure.

Each device draws its mean once a phase, about what `expected` assumes; how long it was observed
only says from when there is something to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from control_plane.rollouts.evidence import Arms, Evidence
from control_plane.rollouts.expected import Quantity, quantities
from control_plane.rollouts.model import Rollout
from control_plane.rollouts.statistics import OBSERVATIONS_MIN, Arm
from control_plane.rollouts.world import Chance, World

_OBSERVATIONS_PER_REPORT: Final = OBSERVATIONS_MIN


class Measured:
    """What devices measured since the phase began, first told one interval of reports later."""

    def __init__(self, chance: Chance, world: World) -> None:
        self._chance = chance
        self._world = world
        self._passed_s = 0.0
        self._drawn: dict[tuple[str, int, bool], float] = {}
        self._state: tuple[int, ...] = ()
        self._told = Evidence()

    def begin(self) -> None:
        """Forget what came before the phase that begins."""
        self._passed_s = 0.0
        self._drawn = {}

    def pass_time(self, seconds: float) -> None:
        """Let devices measure."""
        self._passed_s += seconds

    def evidence(self, rollout: Rollout, served: Sequence[int], planned: Sequence[int]) -> Evidence:
        """Return what the gates compare: on devices that serve the candidate, and on others."""
        reports = int(self._passed_s / self._world.report_s)
        state = rollout.watched, reports, len(served), len(planned)
        if state != self._state:
            self._state, self._told = state, self._evidence(rollout, served, planned, reports)
        return self._told

    def _evidence(
        self, rollout: Rollout, served: Sequence[int], planned: Sequence[int], reports: int
    ) -> Evidence:
        asked = quantities(rollout.gates, rollout.spec.course()[rollout.watched])
        if not reports or not asked:
            return Evidence()
        found = {
            each.evidence: Arms(
                self._arm(each, served, reports, is_candidate=True),
                self._arm(each, planned, reports, is_candidate=False),
            )
            for each in asked
        }
        return Evidence(**found)  # type: ignore[arg-type] # the fields that quantities name

    def _arm(
        self, asked: Quantity, positions: Sequence[int], reports: int, *, is_candidate: bool
    ) -> Arm:
        means = [self._mean(asked, each, is_candidate=is_candidate) for each in positions]
        observations = len(means) * reports * _OBSERVATIONS_PER_REPORT
        return Arm.of(means, [0.0] * len(means), observations)

    def _mean(self, asked: Quantity, position: int, *, is_candidate: bool) -> float:
        key = asked.gate, position, is_candidate
        if key not in self._drawn:
            excess = asked.wanted if is_candidate and self._world.is_worse else 0.0
            self._drawn[key] = _drawn(self._chance, asked, asked.mean + excess)
        return self._drawn[key]


def _drawn(chance: Chance, asked: Quantity, mean: float) -> float:
    if asked.is_bit:
        return float(chance.random() < mean)
    return max(chance.gauss(mean, asked.sd), 0.0)
