"""What simulated devices are asked, and answer: the same for the same device and number, always.

Real images; the answers are made up. Whoever knows a device's number and a prediction's can say
what was counted, so that a test computes the truth by itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.layout import layout_of
from firmware_bundles.sketches.sketch import Sketch
from support.simulated.behaviour import Behaviour

Reals = NDArray[np.float32]
Numbers = NDArray[np.int64]

_FEED: Final = Path(__file__).parents[3] / "firmware_bundles" / "samples" / "digits" / "feed.npz"
_CLASSES: Final = 10
_SURE: Final = np.float32(0.91)
_UNSURE: Final = np.float32(0.01)


class Rows(NamedTuple):
    """Inputs [rows, features], scores [rows, classes], and the true classes."""

    features: Reals
    scores: Reals
    labels: Numbers


class Traffic:
    """The inputs and answers of one device, by the numbers of its predictions."""

    def __init__(self, number: int, behaviour: Behaviour) -> None:
        self._number = number
        self._behaviour = behaviour

    def rows(self, sequences: Numbers, window: int = 0) -> Rows:
        """Return these rows; `window` says how many were closed before, for drift."""
        images, labels = _feed()
        places = (sequences * 37 + self._number * 101) % len(labels)
        features, true = images[places], labels[places]
        if self._behaviour.drift_sd and window >= self._behaviour.drift_after_windows:
            features = features + (self._behaviour.drift_sd * images.std(axis=0)).astype(np.float32)
        lots = (sequences * 7919 + self._number * 104_729) % 10_007
        is_wrong = lots < self._behaviour.wrong_share * 10_007
        answers = (true + is_wrong) % _CLASSES
        scores = np.full((len(true), _CLASSES), _UNSURE, dtype=np.float32)
        scores[np.arange(len(true)), answers] = _SURE
        return Rows(features, scores, true)

    def sketch(self, baseline: Baseline, sequences: Numbers, window: int = 0) -> Sketch:
        """Return the sketch of these rows, as a device counts them."""
        rows = self.rows(sequences, window)
        sketch = Sketch(baseline)
        sketch.update_watched(rows.features[:, layout_of(baseline).features], rows.scores)
        return sketch


@cache
def _feed() -> tuple[Reals, Numbers]:
    with np.load(_FEED, allow_pickle=False) as stored:
        images = stored["image"].astype(np.float32)
        return images.reshape(len(images), -1), stored["label"].astype(np.int64)
