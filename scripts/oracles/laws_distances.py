"""scipy's distances and p-values of one pair of histograms."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats
from scipy.spatial import distance


def distances(pair: dict[str, Any]) -> dict[str, Any]:
    """The distances and p-values of one pair of histograms."""
    c, r, places = np.array(pair["c"]), np.array(pair["r"]), np.array(pair["places"])
    p, q = c / c.sum(), r / r.sum()
    rows = [np.repeat(np.arange(len(side)), side) for side in (c, r)]
    seen = (c + r) > 0
    table = np.array([c[seen], r[seen]])
    expected = stats.contingency.expected_freq(table)
    return {
        **pair,
        "js": float(distance.jensenshannon(p, q)),
        "hellinger": float(distance.euclidean(np.sqrt(p), np.sqrt(q)) / np.sqrt(2)),
        "wasserstein": float(stats.wasserstein_distance(places, places, c, r)),
        "ks": float(stats.ks_2samp(*rows, method="asymp").statistic),
        "chi2_p": float(stats.chi2_contingency(table, correction=False).pvalue)
        if expected.min() >= 5  # noqa: PLR2004
        else None,
    }
