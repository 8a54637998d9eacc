"""A model whose answers are recorded: its number in the journal, and what of them is watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.telemetry.capture import Rules
from agent.telemetry.rows import ModelRow
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.layout import layout_of

Reals = NDArray[np.float32]

NOTHING: Final = np.zeros(0, dtype=np.float32)


class Recording:
    """A model whose answers are recorded: its number in the journal, and what is watched."""

    def __init__(self, row: ModelRow, baseline: Baseline | None) -> None:
        self.row = row
        self.segments = _segments(baseline)
        self.values = baseline.declared if baseline else ()
        self._stride = baseline.stride if baseline else 0
        self._watched = layout_of(baseline).features if baseline else None
        self._is_all_watched = (
            baseline is not None and len(layout_of(baseline).features) == baseline.features
        )
        self._count = 0
        self.capture: Rules | None = None

    def watched(self, features: Callable[[], Reals]) -> Reals:
        """Return the features to count of this answer: none, unless it is its turn."""
        if self._watched is None:
            return NOTHING
        self._count += 1
        if self._count % self._stride:
            return NOTHING
        return features() if self._is_all_watched else features()[self._watched]


def _segments(baseline: Baseline | None) -> dict[str, int]:
    """Return the places of the declared segments, none where there is but one."""
    if baseline is None or len(baseline.segments) == 1:
        return {}
    return {name: place for place, name in enumerate(baseline.segments)}
