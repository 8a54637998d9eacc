"""Counters `[segment][label][prediction]` of predictions whose true label came, kept sparse.

Most pairs of a label and a wrong prediction never happen: of a thousand classes a full table would
be a million counters. What the counters say about a model stands in `performance` and `fairness`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

CELLS_MAX = 2**16
NO_ANSWER = -1  # the prediction of a row whose scores were not finite


class Outcomes:
    """Counted outcomes of `segments` parts of the traffic and `classes` classes.

    `keys` rise; cell `(segment * classes + label) * (classes + 1) + prediction + 1` was seen
    `counts` times.
    """

    def __init__(self, segments: int, classes: int) -> None:
        self.segments = segments
        self.classes = classes
        self.keys: Integers = np.zeros(0, dtype=np.int64)
        self.counts: Integers = np.zeros(0, dtype=np.int64)

    @property
    def keys_end(self) -> int:
        """The first number that is no key."""
        return self.segments * self.classes * (self.classes + 1)

    @property
    def rows(self) -> int:
        """How many labelled predictions were counted."""
        return int(self.counts.sum())

    def update(self, segments: Integers, labels: Integers, predictions: Integers) -> None:
        """Count labelled predictions; NO_ANSWER is a prediction too.

        Raises ValueError when a place is out of range, or there would be too many cells.
        """
        for places, low, end in (
            (segments, 0, self.segments),
            (labels, 0, self.classes),
            (predictions, NO_ANSWER, self.classes),
        ):
            if len(places) and not low <= places.min() <= places.max() < end:
                raise ValueError(
                    f"a place from {places.min()} to {places.max()} is not below {end}"
                )
        keys = (segments * self.classes + labels) * (self.classes + 1) + predictions + 1
        self._add(keys, np.ones(len(keys), dtype=np.int64))

    def merge(self, other: Outcomes) -> None:
        """Add what `other` counted. Raises ValueError when that would be too many cells."""
        self._add(other.keys, other.counts)

    def subtract(self, other: Outcomes) -> None:
        """Take away what `other` counted. Raises ValueError when it was never added."""
        self._add(other.keys, -other.counts)

    def table(self) -> Integers:
        """Return the counters [segment, label, prediction + 1] in full; for few classes."""
        cells = np.zeros(self.keys_end, dtype=np.int64)
        cells[self.keys] = self.counts
        return cells.reshape(self.segments, self.classes, self.classes + 1)

    def _add(self, keys: Integers, counts: Integers) -> None:
        every = np.concatenate((self.keys, keys)).astype(np.int64)
        found, places = np.unique(every, return_inverse=True)
        sums = np.zeros(len(found), dtype=np.int64)
        np.add.at(sums, places, np.concatenate((self.counts, counts)))
        if (sums < 0).any():
            raise ValueError("outcomes that were never added cannot be taken away")
        if np.count_nonzero(sums) > CELLS_MAX:
            raise ValueError(f"more than {CELLS_MAX} sorts of outcomes")
        self.keys, self.counts = found[sums > 0], sums[sums > 0]
