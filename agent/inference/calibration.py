"""Measures how fast this device computes, as a class that tells boards apart.

    python -I -m agent.inference.calibration

Two fixed matrices of 192 x 192 float32 values are multiplied on one core, 2 * 192^3 operations.
The least of all times in a quarter of a second counts, which other programs' work hardly makes
longer. Whoever starts this allows numpy one thread (`children.BARE_ENVIRONMENT`). Class n stands
for 2^n to 2^(n+1) million operations a second. It tells boards apart; it says nothing of an
accelerator and forecasts no model's latency, which the self-test measures with the model itself.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import numpy as np

from firmware_bundles.limits import SPEED_CLASS_MAX

_EXTENT: Final = 192
_OPERATIONS: Final = 2 * _EXTENT**3
_TIMES_MIN: Final = 30
_MEASURED_S: Final = 0.25
_SEED: Final = 1


def speed_class(seconds: float) -> int:
    """Return the class of a device that multiplies the matrices in so many seconds."""
    millions_per_s = _OPERATIONS / max(seconds, 1e-9) / 1e6
    return min(max(int(millions_per_s), 1).bit_length() - 1, SPEED_CLASS_MAX)


def measure() -> float:
    """Return the least time of one multiplication, in seconds."""
    left, right = np.random.default_rng(_SEED).random((2, _EXTENT, _EXTENT), dtype=np.float32)
    out = np.empty_like(left)
    times: list[float] = []
    ends = time.perf_counter() + _MEASURED_S
    while len(times) < _TIMES_MIN or time.perf_counter() < ends:
        began = time.perf_counter()
        np.matmul(left, right, out=out)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    sys.stdout.write(f"{speed_class(measure())}\n")
