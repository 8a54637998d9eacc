"""What a simulated fleet is like, and where its chance comes from. Pure.

Nothing here is measured: these are the assumptions that a simulation states with its result.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import msgspec

_SMALL: Final = 30
_ARRIVALS_MAX: Final = 10 * _SMALL


class Chance(Protocol):
    """A source of chance, such as `random.Random(seed)`: same seed, same simulation."""

    def random(self) -> float:
        """Return a number from 0 to 1."""

    def gauss(self, mu: float, sigma: float) -> float:
        """Return a normal number."""

    def expovariate(self, lambd: float) -> float:
        """Return a waiting time with this rate."""

    def betavariate(self, alpha: float, beta: float) -> float:
        """Return a share."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet and a candidate as a simulation assumes them; shares are of all devices.

    Who is offline comes back after `offline_s` in the mean, who is silent never does; slow devices
    take `slow_factor` times as long to fetch and install. A device has `labels_per_h` labels. Its
    share of wrong ones varies between devices with intra-class correlation `spread`, and persists;
    where inputs drift it doubles, under either model. `excess` is how many more labels contradict
    the candidate; one that `is_worse` has, of all that gates compare by device, as much more as
    they must not miss. How devices differ in that stands in `expected`.
    """

    members: int
    model_bytes: int = 1_000_000
    bytes_per_s: float = 100_000.0
    install_s: float = 10.0
    failed: float = 0.0
    rolled_back: float = 0.0
    silent: float = 0.0
    offline: float = 0.0
    offline_s: float = 14_400.0
    slow: float = 0.0
    slow_factor: float = 10.0
    drifting: float = 0.0
    report_s: float = 900.0
    labels_per_h: float = 0.0
    errors: float = 0.05
    spread: float = 0.02
    excess: float = 0.0
    is_worse: bool = False
    approval_s: float = 0.0
    utc_offsets: tuple[int, ...] = (0,)


def hits(chance: Chance, trials: int, share: float) -> int:
    """Return how many of `trials` hit; beyond a few by the normal law."""
    if share <= 0 or not trials:
        return 0
    if share >= 1:
        return trials
    if trials > _SMALL:
        found = round(chance.gauss(trials * share, math.sqrt(trials * share * (1 - share))))
        return min(max(found, 0), trials)
    left, odds = chance.random(), share / (1 - share)
    probability, count = (1 - share) ** trials, 0
    while left > probability and count < trials:
        left -= probability
        probability *= odds * (trials - count) / (count + 1)
        count += 1
    return count


def arrivals(chance: Chance, mean: float) -> int:
    """Return how many come where `mean` come on average; beyond a few by the normal law."""
    if mean > _SMALL:
        return max(round(chance.gauss(mean, math.sqrt(mean))), 0)
    left, probability, count = chance.random(), math.exp(-mean), 0
    while left > probability and count < _ARRIVALS_MAX:
        left -= probability
        count += 1
        probability *= mean / count
    return count


def device_errors(chance: Chance, world: World) -> float:
    """Return one device's own share of wrong labels, as it persists."""
    mean = world.errors
    if not 0 < mean < 1 or world.spread <= 0:
        return mean
    weight = (1 - world.spread) / world.spread
    own = chance.betavariate(mean * weight, (1 - mean) * weight)
    return min(2 * own, 1.0) if chance.random() < world.drifting else own
