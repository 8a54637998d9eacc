"""From a model's scores to classes: activation, order, threshold. Pure numpy, one row at a time.

Device and owner use it alike, so that the baseline is made of the scores that devices record.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float32]

NONE = -1  # the index of no class


def activate(values: Reals, activation: str) -> Reals:
    """Return what `softmax` or `sigmoid` makes of the last axis; other names change nothing."""
    if activation == "softmax":
        raised = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float32)
    if activation == "sigmoid":
        # exp of a large number overflows to infinity, and the quotient to 0: as it should be.
        with np.errstate(over="ignore"):
            return np.asarray(1.0 / (1.0 + np.exp(-values)), dtype=np.float32)
    return values


def best(scores: Reals, count: int, threshold: float | None) -> list[int]:
    """Return the indices of the `count` largest scores, the largest first, of equals the first.

    NONE takes the place of those below `threshold`, so that there are always `count`.
    """
    if count == 1:
        order = [int(scores.argmax())]
    else:
        order = np.argsort(-scores, kind="stable")[:count].tolist()
    if threshold is None:
        return order
    return [each if scores[each] >= threshold else NONE for each in order]


def scores_of(scores: Reals, order: list[int]) -> Reals:
    """Return the scores of classes, 0 for NONE."""
    found = [scores[each] if each >= 0 else 0.0 for each in order]
    return np.array(found, dtype=np.float32)
