"""What a shadow costs the live model: latency at a paced load, with and without, interleaved."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from agent.inference.control import Shadow, ShadowStatus
from agent.inference.supervisor import INFERENCE_SOCKET
from support import benchmark, workers
from support.benchmark import Limit, Report
from support.bundles import Sample, images
from support.raw_client import RawClient, request
from support.workers import Device

WINDOW_S = float(os.environ.get("SHOAL_BENCH_WINDOW_S", "5"))
_RATE_PER_S = 200
_RATIO_MAX = 1.05
_WARMING = 200


def _paced(device: Device, asked: list[bytes]) -> list[float]:
    """Ask at the rate for one window; return the latencies in microseconds."""
    found = []
    with RawClient(device.run_dir / INFERENCE_SOCKET) as client:
        for place in range(_WARMING):
            client.ask(asked[place % len(asked)])
        began = time.perf_counter()
        for turn in range(int(WINDOW_S * _RATE_PER_S)):
            time.sleep(max(0.0, began + turn / _RATE_PER_S - time.perf_counter()))
            sent = time.perf_counter()
            client.ask(asked[turn % len(asked)])
            found.append((time.perf_counter() - sent) * 1e6)
    return found


def _window(device: Device, asked: list[bytes], *, is_shadowed: bool) -> tuple[list[float], int]:
    if is_shadowed:
        device.call(Shadow("digits", "B", 1.0))
    found = _paced(device, asked)
    time.sleep(0.3)
    facts = device.status().families["digits"].shadow
    rows = facts.rows if isinstance(facts, ShadowStatus) else 0
    device.call(Shadow("digits", "B", 0.0))
    return found, rows


def _pairs(pairs: int, cores: set[int] | None) -> tuple[list[float], list[float], list[int]]:
    """Return the ratios of the p99, of the medians, and the rows compared, of each pair."""
    p99, p50, rows = [], [], []
    asked = [request("digits", image) for image in images(400)]
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        state = Path(folder)
        Sample("v1").put(state, "A")
        Sample("v2").put(state, "B", serve=False)
        with workers.device(state) as device, device.running():
            device.status()
            if cores is not None:
                for task in Path(f"/proc/{device.supervisor.pid}/task").iterdir():
                    os.sched_setaffinity(int(task.name), cores)
            for turn in range(pairs):
                order = (False, True) if turn % 2 else (True, False)
                found = {each: _window(device, asked, is_shadowed=each) for each in order}
                off, on = found[False][0], found[True][0]
                p99.append(float(np.percentile(on, 99) / np.percentile(off, 99)))
                p50.append(median(on) / median(off))
                rows.append(found[True][1])
    return p99, p50, rows


def measure(pairs: int) -> Report:
    """Measure with a core to spare, then with worker and shadow on one."""
    free, free_p50, rows = _pairs(pairs, None)
    available = os.sched_getaffinity(0)
    first = min(available)
    os.sched_setaffinity(0, available - {first} or available)
    pinned, pinned_p50, pinned_rows = _pairs(pairs, {first})
    return Report(
        limits=[
            Limit(
                what="p99 with a shadow / without, median of pairs",
                value=median(free),
                unit="",
                limit=_RATIO_MAX,
            )
        ],
        figures={
            "pairs": pairs,
            "window, s": WINDOW_S,
            "requests/s": _RATE_PER_S,
            "share mirrored": 1.0,
            "rows compared a window, median": median(rows),
            "p50 with a shadow / without, median of pairs": median(free_p50),
            "p99 ratios, lowest": min(free),
            "p99 ratios, highest": max(free),
            "on one core: p99 ratio, median of pairs": median(pinned),
            "on one core: p50 ratio, median of pairs": median(pinned_p50),
            "on one core: rows compared a window, median": median(pinned_rows),
        },
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("shadow", measure, numbers={"pairs": 20}))
