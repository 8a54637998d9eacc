"""scipy: laws, intervals and distances, on made numbers and on digits, wine and breast_cancer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import scipy
import sklearn
from scipy import stats
from sklearn import datasets

from laws_distances import distances
from windows import window

SHIFTS = {"none": 0.0, "half": 0.5}


def _real_windows() -> list[dict[str, Any]]:
    found = []
    for name in ("digits", "wine", "breast_cancer"):
        values = getattr(datasets, f"load_{name}")().data.astype(float)
        order = np.random.default_rng(3).permutation(len(values))
        half = len(values) // 2
        for column in range(0, values.shape[1], 6):
            reference, current = values[order[:half], column], values[order[half:], column]
            for shift, amount in SHIFTS.items():
                if reference.std():
                    moved = current + amount * reference.std()
                    pair = distances(window(reference, moved))
                    found.append({"data": name, "column": column, "shift": shift, **pair})
    return found


def _laws() -> dict[str, Any]:
    grid = [
        (x, df, nc) for x in (0.5, 9.0, 40.0, 120.0) for df in (1, 2, 9, 22) for nc in (1.5, 30.0)
    ]
    trials = [(3, 300, 0.005), (20, 300, 0.04), (1, 40, 0.2), (250, 300, 0.8), (90, 5000, 0.01)]
    shares = [(0, 50), (3, 50), (47, 50), (50, 50), (700, 1000)]
    p = np.random.default_rng(5).uniform(size=40) ** 3
    return {
        "ncx2_sf": [(*at, float(stats.ncx2.sf(*at))) for at in grid],
        "chi2_isf": [
            (tail, df, float(stats.chi2.isf(tail, df)))
            for tail in (1e-5, 0.01, 0.5)
            for df in (1, 9, 22)
        ],
        "binomial_tail": [(k, n, q, float(stats.binom.sf(k - 1, n, q))) for k, n, q in trials],
        "rate_bound": [
            (k, n, a, float(stats.beta.ppf(1 - a, k + 1, n - k)))
            for k, n in ((0, 5000), (12, 5000), (40, 300))
            for a in (0.05, 1e-5)
        ],
        "wilson": [
            (k, n, *map(float, stats.binomtest(k, n).proportion_ci(method="wilson")))
            for k, n in shares
        ],
        "p": p.tolist(),
        "benjamini_hochberg": stats.false_discovery_control(p, method="bh").tolist(),
    }


if __name__ == "__main__":
    versions = {
        "scipy": scipy.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    print(json.dumps({"versions": versions, **_laws(), "windows": _real_windows()}))
