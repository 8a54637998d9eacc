"""How long something takes, over and over: medians for benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved_ms(
    rounds: int, calls: Mapping[str, Callable[[int], object]], *, warm: int = 2
) -> dict[str, list[float]]:
    """Return the times of each call in milliseconds; calls take turns, so that all see one load.

    A call gets the number of its round. The first `warm` rounds are not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm, rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call(number + warm)
            if number >= 0:
                taken[name].append((time.perf_counter() - begin) * 1000)
    return taken


def processor_ms(rounds: int, call: Callable[[int], object]) -> float:
    """Return the median of what a call costs the processors, in all threads: no load changes it."""
    taken: list[float] = []
    for number in range(rounds):
        begin = time.process_time()
        call(number)
        taken.append((time.process_time() - begin) * 1000)
    return statistics.median(taken)


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each."""
    return {name: statistics.median(values) for name, values in times.items()}
