"""Evidence over time: p-values become e-values, and these an E-detector for each stream.

An E-detector (Shin, Ramdas and Rinaldo 2022) may be looked at after every window: over D devices
a threshold t gives at most D / t false alarms a window, however dependent the streams are.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches.distances import Floats

THRESHOLD: Final = 1e4
_P_MIN: Final = 1e-14
SCORE_MAX: Final = 1e12  # without a cap a score outgrows a float


class Evidence(NamedTuple):
    """What speaks for a change in each stream, and for how many windows it has been growing."""

    scores: Floats
    ages: NDArray[np.int64]

    @property
    def score(self) -> float:
        """The device's score: the mean of its streams, which is an E-detector again."""
        return float(self.scores.mean()) if len(self.scores) else 0.0


def nothing(streams: int) -> Evidence:
    """Return the evidence before the first window."""
    return Evidence(np.ones(streams), np.zeros(streams, dtype=np.int64))


def e_values(p: Floats) -> Floats:
    """Return .5 / sqrt(p), the calibrator of Vovk and Wang 2021 at kappa = .5, p at least 1e-14."""
    return 0.5 / np.sqrt(np.maximum(p, _P_MIN))


def advance(evidence: Evidence, p: Floats) -> Evidence:
    """Add one window's p-values; a stream whose p is NaN could not be tested and stays.

    e-CUSUM: S = max(S, 1) e.
    """
    is_tested = ~np.isnan(p)
    e = e_values(np.where(is_tested, p, 1.0))
    grown = np.minimum(np.maximum(evidence.scores, 1.0) * e, SCORE_MAX)
    ages = np.where(evidence.scores > 1, evidence.ages + 1, 1)
    return Evidence(
        np.where(is_tested, grown, evidence.scores), np.where(is_tested, ages, evidence.ages)
    )
