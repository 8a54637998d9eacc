"""What a run of predictions adds up to: how many, and their latency, in whole numbers."""

from __future__ import annotations

from math import log1p
from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_bundles.wire import column_parts
from firmware_bundles.wire.messages import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firmware_bundles.wire.varints import Integers

LOG_SCALE: Final = 1024.0
# What one prediction can add.
LATENCY_US_MAX: Final = column_parts.TIME_MAX
LOG_MAX: Final = round(LOG_SCALE * log1p(LATENCY_US_MAX))


def totals(latency_us: Integers) -> Totals:
    """Return the totals of predictions with these latencies, at least one."""
    return totals_of_each([latency_us])[0]


def totals_of_each(runs: Sequence[Integers]) -> list[Totals]:
    """Return the totals of several runs; all at once costs little more than one."""
    if not runs:
        return []
    lengths = [len(run) for run in runs]
    starts = np.cumsum([0, *lengths[:-1]])
    latency_us = np.concatenate(runs)
    logs = np.rint(np.log1p(latency_us.astype(np.float64)) * LOG_SCALE).astype(np.int64)
    sums = (np.add.reduceat(each, starts).tolist() for each in (latency_us, logs, logs**2))
    return [
        Totals(answered=answered, latency_us=total, log_latency=log, log_latency2=log2)
        for answered, total, log, log2 in zip(lengths, *sums, strict=True)
    ]
