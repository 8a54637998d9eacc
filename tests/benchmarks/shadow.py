"""What a shadow costs the live model: latency at a paced load, with and without, interleaved.

A latency counts from when a request was due, so that one that waits for another's answer counts
that, too. A window is as long as rows wait for a segment: each meets the sealing of one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from agent.inference.control import Shadow, ShadowStatus
from agent.inference.supervisor import INFERENCE_SOCKET
from support import benchmark, workers
from support.benchmark import Limit, Report
from support.bundles import Sample, images
from support.raw_client import RawClient, request
from support.workers import Device

WINDOW_S = float(os.environ.get("SHOAL_BENCH_WINDOW_S", "10"))
_RATE_PER_S = 200
_RATIO_MAX = 1.05
_WARMING = 200
_COMPARED_S = 2.5  # in this time all rows are answered and compared
_AWAKE_S = 0.0003  # before a request is due: a timer is not that exact


def _paced(device: Device, asked: list[bytes]) -> list[float]:
    """Ask at the rate for one window; return the latencies from when due, in microseconds."""
    found = []
    with RawClient(device.run_dir / INFERENCE_SOCKET) as client:
        for place in range(_WARMING):
            client.ask(asked[place % len(asked)])
        began = time.perf_counter()
        for turn in range(int(WINDOW_S * _RATE_PER_S)):
            due = began + turn / _RATE_PER_S
            time.sleep(max(0.0, due - _AWAKE_S - time.perf_counter()))
            while time.perf_counter() < due:
                pass
            client.ask(asked[turn % len(asked)])
            found.append((time.perf_counter() - due) * 1e6)
    return found


def _shadowed(device: Device, asked: list[bytes]) -> tuple[list[float], ShadowStatus]:
    device.call(Shadow("digits", "B", 1.0))
    found = _paced(device, asked)
    time.sleep(_COMPARED_S)
    facts = device.status().families["digits"].shadow
    assert facts is not None
    device.call(Shadow("digits", "B", 0.0))
    return found, facts


class Pair(NamedTuple):
    """A window without a shadow and one with: their p99 and medians in us; rows of the latter."""

    off_p99: float
    on_p99: float
    off_p50: float
    on_p50: float
    compared: int
    dropped: int

    @property
    def p99_ratio(self) -> float:
        """How many times as long the slowest hundredth takes with a shadow."""
        return self.on_p99 / self.off_p99

    @property
    def p50_ratio(self) -> float:
        """The same of the medians."""
        return self.on_p50 / self.off_p50


def _pairs(pairs: int, cores: set[int] | None) -> list[Pair]:
    made = []
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
                if turn % 2:
                    off = _paced(device, asked)
                on, facts = _shadowed(device, asked)
                if not turn % 2:
                    off = _paced(device, asked)
                speed = (_p99(off), _p99(on), median(off), median(on))
                made.append(Pair(*speed, facts.rows, facts.dropped))
    return made


def _p99(latencies: list[float]) -> float:
    return float(np.percentile(latencies, 99))


def measure(pairs: int) -> Report:
    """Measure with a core to spare, then with worker and shadow on one."""
    free = _pairs(pairs, None)
    ratios = [each.p99_ratio for each in free]
    available = os.sched_getaffinity(0)
    first = min(available)
    os.sched_setaffinity(0, available - {first} or available)
    pinned = _pairs(pairs, {first})
    return Report(
        limits=[
            Limit(
                what="p99 with a shadow / without, median of pairs",
                value=median(ratios),
                unit="",
                limit=_RATIO_MAX,
            )
        ],
        figures={
            "pairs": pairs,
            "window, s": WINDOW_S,
            "requests/s": _RATE_PER_S,
            "share mirrored": 1.0,
            "rows compared a window, median": median(each.compared for each in free),
            "rows dropped, all windows": sum(each.dropped for each in free),
            "p99 without a shadow, us, median": median(each.off_p99 for each in free),
            "p99 with a shadow, us, median": median(each.on_p99 for each in free),
            "p50 with a shadow / without, median of pairs": median(each.p50_ratio for each in free),
            "p99 ratios, lowest": min(ratios),
            "p99 ratios, highest": max(ratios),
            "on one core: p99 ratio, median of pairs": median(each.p99_ratio for each in pinned),
            "on one core: p50 ratio, median of pairs": median(each.p50_ratio for each in pinned),
            "on one core: rows compared a window, median": median(each.compared for each in pinned),
            "on one core: rows dropped, all windows": sum(each.dropped for each in pinned),
        },
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("shadow", measure, numbers={"pairs": 20}))
