"""What counting costs: nanoseconds a value, moments included, and bytes of a window, next to peers.

The peers come from the package index: pip install datasketches whylogs, into the environment that
`SHOAL_BENCH_PEERS_PYTHON` names (its interpreter). They are fed the same values; of KLL one sketch
a column with k = 200. What runs is `update_watched`: bins of features, scores, confidence and
class, and their sums, squares and ranges. The best of several runs counts: a disturbed run says
nothing about the code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np

from firmware_bundles.sketches import baseline, codec
from firmware_bundles.sketches.baseline import Baseline, Reals
from firmware_bundles.sketches.sketch import Sketch
from support import benchmark
from support.benchmark import Limit, Report

FEATURES, CLASSES, ROWS = 64, 10, 6_000
BATCHES = (1, 64, 1_024)
RUNS, VALUES_A_RUN = 15, 200_000
NS_MAX, DIGITS_BYTES_MAX, CONTINUOUS_BYTES_MAX = 40.0, 2_500.0, 3_500.0

_PEERS = r"""
import json, sys, time
import numpy as np
found, random = {}, np.random.default_rng(2)
try:
    import datasketches
    for batch in (1, 64, 1024):
        values = random.normal(size=(batch, 74)).astype(np.float32)
        kll = datasketches.kll_floats_sketch
        columns, took = [kll(200) for _ in range(74)], []
        for _ in range(5):
            began = time.perf_counter_ns()
            for _ in range(max(1, 400 // batch)):
                for column, one in enumerate(columns):
                    one.update(values[:, column] if batch > 1 else float(values[0, column]))
            took.append((time.perf_counter_ns() - began) / (max(1, 400 // batch) * values.size))
        found[f"datasketches KLL, batch {batch}, ns a value"] = min(took)
    one = datasketches.kll_floats_sketch(200)
    one.update(random.normal(size=6000).astype(np.float32))
    found["datasketches KLL, 74 columns, bytes"] = 74 * len(one.serialize())
except ImportError:
    found["datasketches"] = "pip install datasketches"
try:
    import pandas, whylogs
    for batch in (64, 1024):
        frame = pandas.DataFrame(random.normal(size=(batch, 74))).rename(columns=str)
        began = time.perf_counter_ns()
        profile = whylogs.log(frame)
        took = (time.perf_counter_ns() - began) / frame.size
        found[f"whylogs, batch {batch}, ns a value"] = took
    frame = pandas.DataFrame(random.normal(size=(6000, 74))).rename(columns=str)
    found["whylogs, 74 columns, bytes"] = len(whylogs.log(frame).view().serialize())
except ImportError:
    found["whylogs"] = "pip install whylogs"
print(json.dumps(found))
"""


def _rows(rows: int, *, pixels: bool) -> tuple[Reals, Reals]:
    """Features and scores; pixels have 17 values, many of them 0, as those of digits."""
    random = np.random.default_rng(rows)
    features = random.normal(size=(rows, FEATURES)).astype(np.float32)
    if pixels:
        features = np.clip(np.rint(8 * features), 0, 16).astype(np.float32)
    scores = random.dirichlet(np.full(CLASSES, 0.1 if pixels else 1.0), rows).astype(np.float32)
    return features, scores


def _facts(*, pixels: bool) -> Baseline:
    features, scores = _rows(5_000, pixels=pixels)
    return baseline.make({"x": features}, scores, [str(at) for at in range(CLASSES)])


def _ns(facts: Baseline, batch: int) -> float:
    watched, scores = _rows(batch, pixels=False)
    values = batch * len(facts.columns)
    repeats, best = max(1, VALUES_A_RUN // values), float("inf")
    for _ in range(RUNS):
        sketch = Sketch(facts)
        began = time.perf_counter_ns()
        for _ in range(repeats):
            sketch.update_watched(watched, scores)
        best = min(best, (time.perf_counter_ns() - began) / (repeats * values))
    return best


def _bytes(*, pixels: bool) -> int:
    sketch = Sketch(_facts(pixels=pixels))
    sketch.update(*_rows(ROWS + 1, pixels=pixels))
    return len(codec.encode_sketch(sketch))


def _peers() -> dict[str, object]:
    python = os.environ.get("SHOAL_BENCH_PEERS_PYTHON", sys.executable)
    said = subprocess.run([python, "-c", _PEERS], check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(said.stdout.splitlines()[-1])
    return found


def measure() -> Report:
    """Count, encode, and let the peers do the same."""
    facts = _facts(pixels=False)
    costs = {batch: _ns(facts, batch) for batch in BATCHES}
    limits = [
        Limit(what="batch 64, moments included", value=costs[64], unit="ns/value", limit=NS_MAX),
        Limit(
            what=f"window of {ROWS:,} rows, pixels and scores, bytes",
            value=_bytes(pixels=True), unit="B", limit=DIGITS_BYTES_MAX,
        ),
        Limit(
            what=f"window of {ROWS:,} rows, 74 continuous columns, bytes",
            value=_bytes(pixels=False), unit="B", limit=CONTINUOUS_BYTES_MAX,
        ),
    ]  # fmt: skip
    figures = {f"batch {batch}, ns a value": cost for batch, cost in costs.items()}
    return Report(limits=limits, figures={**figures, **_peers()})


if __name__ == "__main__":
    sys.exit(benchmark.main("sketches", measure))
