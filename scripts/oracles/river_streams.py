"""Streams that river ships (Phishing, Bananas) and makes (FriedmanDrift): early against late."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import numpy as np
import river
import scipy
from river import datasets
from river.datasets import synth

from laws_distances import distances
from windows import window

ROWS = 2_000


def _windows(name: str, stream: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    rows = [list(features.values()) for features, _ in islice(stream, ROWS)]
    values = np.array(rows, dtype=float)
    half = len(values) // 2
    return [
        {"data": name, "column": at, **distances(window(values[:half, at], values[half:, at]))}
        for at in range(min(3, values.shape[1]))
    ]


if __name__ == "__main__":
    streams = {
        "Phishing": datasets.Phishing(),
        "Bananas": datasets.Bananas(),
        "FriedmanDrift": synth.FriedmanDrift(
            drift_type="lea", position=(500, 1_000, 1_500), seed=1
        ),
    }
    found = [pair for name, stream in streams.items() for pair in _windows(name, stream)]
    versions = {"river": river.__version__, "scipy": scipy.__version__, "numpy": np.__version__}
    print(json.dumps({"versions": versions, "windows": found}))
