"""Whether segments of the traffic are treated alike: differences of rates, with intervals.

Definitions are those of fairlearn (Hardt, Price and Srebro 2016 for the last two), for one
favourable prediction against the rest. Segments with too few rows are left out and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches.intervals import ALPHA, Rate, wilson
from firmware_bundles.sketches.outcomes import Outcomes

ROWS_MIN: Final = 100


class Gap(NamedTuple):
    """Largest minus smallest rate of the segments, and the interval of that difference.

    `ratio` is smallest over largest. All are NaN with fewer than two segments of enough rows.
    """

    rates: dict[str, Rate]
    suppressed: tuple[str, ...]
    difference: float
    ratio: float
    low: float
    high: float


class Fairness(NamedTuple):
    """Demographic parity needs no labels; the others compare true and false positive rates."""

    demographic_parity: Gap
    equal_opportunity: Gap
    false_positives: Gap

    @property
    def equalised_odds(self) -> float:
        """The larger one of the two differences of equalised odds."""
        return max(self.equal_opportunity.difference, self.false_positives.difference)


def demographic_parity(
    answers: NDArray[np.int64],
    segments: Sequence[str],
    favourable: int,
    rows_min: int = ROWS_MIN,
) -> Gap:
    """Compare selection rates from the counters [segment, prediction + 1] of a sketch."""
    return _gap(segments, answers[:, favourable + 1], answers.sum(axis=1), rows_min)


def fairness(
    outcomes: Outcomes, segments: Sequence[str], favourable: int, rows_min: int = ROWS_MIN
) -> Fairness:
    """Compare the segments' rates on labelled predictions."""
    table = outcomes.table()
    selected = table[:, :, favourable + 1]
    rows = table.sum(axis=2)
    positive, hit = rows[:, favourable], selected[:, favourable]
    return Fairness(
        _gap(segments, selected.sum(axis=1), rows.sum(axis=1), rows_min),
        _gap(segments, hit, positive, rows_min),
        _gap(segments, selected.sum(axis=1) - hit, rows.sum(axis=1) - positive, rows_min),
    )


def _gap(segments: Sequence[str], k: NDArray[np.int64], n: NDArray[np.int64], rows_min: int) -> Gap:
    """Intervals hold for all segments together (Bonferroni), so that of their range holds too."""
    kept = [place for place in range(len(segments)) if n[place] >= max(1, rows_min)]
    rates = {
        segments[place]: wilson(int(k[place]), int(n[place]), ALPHA / len(kept)) for place in kept
    }
    suppressed = tuple(name for name in segments if name not in rates)
    if len(rates) < 2:  # noqa: PLR2004 - nothing to compare
        nan = float("nan")
        return Gap(rates, suppressed, nan, nan, nan, nan)
    values = [rate.value for rate in rates.values()]
    least, most = min(values), max(values)
    low = max(rate.low for rate in rates.values()) - min(rate.high for rate in rates.values())
    high = max(rate.high for rate in rates.values()) - min(rate.low for rate in rates.values())
    ratio = least / most if most else float("nan")
    return Gap(rates, suppressed, most - least, ratio, max(0.0, low), high)
