"""How far counted windows are from a model's signed baseline: distances and p-values of one window.

For display and diagnosis: effect sizes are always shown with their n, and nothing here raises an
alarm. What each number is stands in `firmware_bundles.sketches`. `c` are the counters of the
window, `r` those of the baseline, over the same bins in order of the value: missing, below, the
bins, above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_bundles.sketches.baseline import ROWS_PER_BIN_MIN, ColumnKind
from firmware_bundles.sketches.distances import jensen_shannon, ks_distance, psi
from firmware_bundles.sketches.significance import chi2_p, ks_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bundles.sketches.sketch import Sketch

    Counts = NDArray[np.int64]

_BINS_BESIDE: Final = 3  # missing, below, above


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One column's distances. `p` is the smaller p-value of the two tests, doubled."""

    name: str
    kind: ColumnKind
    n: int
    psi: float
    js: float
    ks: float
    ks_p: float
    chi2_p: float
    p: float
    is_enough: bool


def distances(window: Sketch) -> list[Distance]:
    """Return every column's distance of `window` to the held-out rows of its baseline."""
    return [
        _distance(
            column.name, column.kind, window.counts_of(place), np.array(column.counts, np.int64)
        )
        for place, column in enumerate(window.baseline.columns)
    ]


def _distance(name: str, kind: ColumnKind, c: Counts, r: Counts) -> Distance:
    n, ks = int(c.sum()), ks_distance(c, r)
    ks_tail, chi2_tail = ks_p(c, r), chi2_p(c, r)
    return Distance(
        name=name,
        kind=kind,
        n=n,
        psi=psi(c, r),
        js=jensen_shannon(c, r),
        ks=ks,
        ks_p=ks_tail,
        chi2_p=chi2_tail,
        p=min(1.0, 2 * min(ks_tail, chi2_tail)),
        is_enough=n >= ROWS_PER_BIN_MIN * (len(c) - _BINS_BESIDE),
    )
