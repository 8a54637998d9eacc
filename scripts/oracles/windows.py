"""Counters of a stream's later part over the quantile bins of its earlier part; numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.typing.NDArray[np.float64]


def window(reference: Floats, current: Floats, bins: int = 10) -> dict[str, Any]:
    """Return counters below, in and above the bins, and the places where their rows lie."""
    inner = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])
    top = np.nextafter(reference.max(), np.inf)
    edges = np.unique([reference.min(), *inner, top])
    low, high = min(reference.min(), current.min()), max(reference.max(), current.max())
    middles = (edges[:-1] + edges[1:]) / 2
    c, r = (
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        for values in (current, reference)
    )
    return {
        "c": c.tolist(),
        "r": r.tolist(),
        "edges": edges.tolist(),
        "lowest": float(low),
        "highest": float(high),
        "places": [float(min(low, edges[0])), *middles.tolist(), float(max(high, edges[-1]))],
    }
