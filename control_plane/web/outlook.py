"""What is doubtful about a rollout that nobody was offered yet, and what would become of it.

The forecast is the simulation of `shoal rollout simulate`, on a fleet that is small enough to wait
for; it takes seconds of processor time, so it is made when somebody asks, one at a time.
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from control_plane.rollouts import checks
from control_plane.rollouts.checks import Note
from control_plane.rollouts.expected import COMPARED
from control_plane.rollouts.model import PhaseState, Rollout
from control_plane.rollouts.sensitivity import wanted
from control_plane.rollouts.simulate import Summary, run, summarize
from control_plane.rollouts.world import World
from firmware_bundles.errors import NotFound

if TYPE_CHECKING:
    from control_plane.rollouts.draft import Releases

DEVICES_MAX: Final = 200
RUNS: Final = 6
_KEPT_MAX: Final = 16
_LABELS_PER_H: Final = 1.0


class Forecast(NamedTuple):
    """How simulated runs over so many devices went: with a candidate alike, and a worse one."""

    devices: int
    labels_per_h: float
    alike: Summary
    worse: Summary | None


class Outlook(NamedTuple):
    """What there is to say before a rollout begins; `forecast` once it was asked for."""

    notes: tuple[Note, ...]
    forecast: Forecast | None


class Outlooks:
    """Looks ahead; `releases` tells what devices would fetch."""

    def __init__(self, releases: Releases) -> None:
        self._releases = releases
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Forecast] = OrderedDict()

    def find(self, rollout: Rollout, members: int, *, is_forecast: bool) -> Outlook | None:
        """Return what is to be said; None once a first device had its offer, or at the end."""
        standing = rollout.standing
        waits = standing.phase_state in (PhaseState.PENDING, PhaseState.AWAITING)
        if not (rollout.is_open and waits and standing.phase == 0):
            return None
        size = self._model_bytes(rollout)
        fleet = checks.Fleet(members=members, model_bytes=size)
        forecast = self._forecast(rollout, members, size) if is_forecast else None
        return Outlook(checks.check(rollout.spec, fleet), forecast)

    def _model_bytes(self, rollout: Rollout) -> int:
        try:
            release = self._releases.find(rollout.spec.family, rollout.spec.release)
            manifest = self._releases.manifest(release.digest)
        except NotFound:
            return 0
        return sum(entry.length for entry in manifest.files)

    def _forecast(self, rollout: Rollout, members: int, size: int) -> Forecast:
        key = rollout.id, members
        with self._lock:
            if key not in self._kept:
                self._kept[key] = forecast(rollout, members, size)
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
            return self._kept[key]


def forecast(rollout: Rollout, members: int, model_bytes: int) -> Forecast:
    """Return how a rollout would go; the same rollout has the same forecast."""
    gates = rollout.spec.gates
    labels_per_h = _LABELS_PER_H if gates.label_errors is not None else 0.0
    world = World(
        members=min(members, DEVICES_MAX),
        model_bytes=model_bytes,
        failed=0.01,
        offline=0.1,
        slow=0.05,
        labels_per_h=labels_per_h,
    )
    excess = 0.0 if gates.label_errors is None else wanted(gates.label_errors.margin)
    worse = msgspec.structs.replace(world, excess=excess, is_worse=True)
    can_tell = excess > 0 or any(getattr(gates, name) is not None for name in COMPARED)
    return Forecast(
        devices=world.members,
        labels_per_h=labels_per_h,
        alike=_runs(rollout, world),
        worse=_runs(rollout, worse) if can_tell else None,
    )


def _runs(rollout: Rollout, world: World) -> Summary:
    seeds = range(RUNS)
    return summarize([run(rollout, world, random.Random(seed)) for seed in seeds])  # noqa: S311 a simulation
