"""Intervals of a rate: one for a fixed number of rows, one that holds at every look."""

from __future__ import annotations

from collections.abc import Callable
from math import log, log1p, sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

from firmware_bundles.sketches.special import log_beta

ALPHA: Final = 0.05
_PRIOR: Final = 0.5
_BISECTIONS: Final = 60


class Rate(NamedTuple):
    """k of n, as a share with its interval; without rows the share is NaN and all is possible."""

    k: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share that was seen."""
        return self.k / self.n if self.n else float("nan")


def wilson(k: int, n: int, alpha: float = ALPHA) -> Rate:
    """Interval of Wilson 1927 for one look at a fixed n."""
    if not n:
        return Rate(k, n, 0.0, 1.0)
    z = NormalDist().inv_cdf(1 - alpha / 2)
    share, spread = k / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / n + spread / (4 * n))
    return Rate(
        k, n, max(0.0, middle - half) if k else 0.0, min(1.0, middle + half) if k < n else 1.0
    )


def confidence_sequence(k: int, n: int, alpha: float = ALPHA) -> Rate:
    """Interval that holds at all n at once, so that one may look after every label.

    All rates p whose beta-binomial mixture (Robbins 1970, prior Beta(.5, .5)) against p stays below
    1 / alpha; exact by Ville's inequality where each row is right with the same chance.
    """
    if not n:
        return Rate(k, n, 0.0, 1.0)
    mixture = log_beta(k + _PRIOR, n - k + _PRIOR) - log_beta(_PRIOR, _PRIOR)
    bound = log(1 / alpha)

    def is_possible(p: float) -> bool:
        right = k * log(p) if k else 0.0
        wrong = (n - k) * log1p(-p) if n > k else 0.0
        return mixture - right - wrong < bound

    low = _edge(is_possible, k / n, 0.0) if k else 0.0
    high = _edge(is_possible, k / n, 1.0) if k < n else 1.0
    return Rate(k, n, low, high)


def _edge(is_possible: Callable[[float], bool], inside: float, outside: float) -> float:
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_possible(middle) else (inside, middle)
    return outside
