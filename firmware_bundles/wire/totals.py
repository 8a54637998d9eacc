"""What a run of predictions adds up to: how many, and their latency, in whole numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from firmware_bundles.wire.messages import Totals

if TYPE_CHECKING:
    from firmware_bundles.wire.varints import Integers

LOG_SCALE: Final = 1024.0


def totals(latency_us: Integers) -> Totals:
    """Return the totals of predictions with these latencies, at least one."""
    logs = np.rint(np.log1p(latency_us.astype(np.float64)) * LOG_SCALE).astype(np.int64)
    return Totals(
        answered=len(latency_us),
        latency_us=int(latency_us.sum()),
        log_latency=int(logs.sum()),
        log_latency2=int((logs**2).sum()),
    )
