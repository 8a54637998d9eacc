"""How far counted windows are from a model's signed baseline: distances and p-values of one window.

For display and diagnosis: effect sizes are always shown with their n, and nothing here raises an
alarm. What each number is stands in `firmware_bundles.sketches`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_bundles.sketches.baseline import ROWS_PER_BIN_MIN, ColumnKind
from firmware_bundles.sketches.distances import (
    hellinger,
    jensen_shannon,
    ks_distance,
    places_of,
    psi,
    wasserstein,
)
from firmware_bundles.sketches.significance import benjamini_hochberg, chi2_p, combined_p, ks_p
from firmware_bundles.sketches.sketch import Sketch

if TYPE_CHECKING:
    from firmware_bundles.sketches.distances import Counts

_BINS_BESIDE: Final = 3  # missing, below, above


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One column's distances. `p` is the smaller p-value of the two tests, doubled.

    `wasserstein` is in standard deviations of the baseline; None for classes, which have no order,
    and where the baseline does not vary. `is_rejected` says whether Benjamini and Hochberg would
    reject that the column is as the baseline, at their rate over all columns.
    """

    name: str
    kind: ColumnKind
    n: int
    psi: float
    js: float
    hellinger: float
    wasserstein: float | None
    ks: float
    ks_p: float
    chi2_p: float
    p: float
    is_rejected: bool
    is_enough: bool


def distances(window: Sketch) -> list[Distance]:
    """Return every column's distance of `window` to the held-out rows of its baseline."""
    normal = Sketch.of_held_out(window.baseline)
    deviations = np.sqrt(normal.moments()[2])
    sides = [(window.counts_of(at), normal.counts_of(at)) for at in range(len(deviations))]
    p = np.array([combined_p(c, r) for c, r in sides])
    rejected = benjamini_hochberg(p)
    return [
        Distance(
            name=column.name,
            kind=column.kind,
            n=int(c.sum()),
            psi=psi(c, r),
            js=jensen_shannon(c, r),
            hellinger=hellinger(c, r),
            wasserstein=_wasserstein(window, at, r, float(deviations[at])),
            ks=ks_distance(c, r),
            ks_p=ks_p(c, r),
            chi2_p=chi2_p(c, r),
            p=float(p[at]),
            is_rejected=bool(rejected[at]),
            is_enough=int(c.sum()) >= ROWS_PER_BIN_MIN * (len(c) - _BINS_BESIDE),
        )
        for at, (column, (c, r)) in enumerate(zip(window.baseline.columns, sides, strict=True))
    ]


def _wasserstein(window: Sketch, at: int, normal: Counts, deviation: float) -> float | None:
    column = window.baseline.columns[at]
    if column.kind is ColumnKind.CLASS or not deviation > 0:
        return None
    lowest = min(float(window.minimum[at]), column.minimum)
    highest = max(float(window.maximum[at]), column.maximum)
    places = places_of(column.edges, lowest, highest)
    return wasserstein(window.counts_of(at)[1:], normal[1:], places) / deviation
