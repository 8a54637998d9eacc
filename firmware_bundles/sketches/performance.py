"""How well a model does: on labels that came, and, without labels, from its calibrated confidence.

Only labels see concept drift: under it the label-free estimate stays high while the truth falls.
It stands beside the drift flag, and no gate rests on it alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.distances import Floats
from firmware_bundles.sketches.intervals import ALPHA, Rate, confidence_sequence
from firmware_bundles.sketches.outcomes import Outcomes
from firmware_bundles.sketches.sketch import Sketch


class Standing(StrEnum):
    """Where an accuracy stands to a floor."""

    ABOVE = "above"
    BELOW = "below"
    INCONCLUSIVE = "inconclusive"


class Performance(NamedTuple):
    """Rates on labels, with confidence sequences; `recall` and `precision` by class."""

    accuracy: Rate
    segments: tuple[Rate, ...]
    recall: tuple[Rate, ...]
    precision: tuple[Rate, ...]


class LabelFree(NamedTuple):
    """The accuracy that the confidences of `rows` rows promise; to be greyed out when drifting."""

    accuracy: float
    rows: int
    is_drifting: bool


def performance(outcomes: Outcomes, alpha: float = ALPHA) -> Performance:
    """Return the rates of all labelled predictions. Each rate's sequence holds by itself.

    A prediction without an answer is wrong, and counts in no precision.
    """
    every, right = (np.zeros((outcomes.segments, outcomes.classes), np.int64) for _ in range(2))
    given = np.zeros(outcomes.classes + 1, np.int64)
    rest, shifted = np.divmod(outcomes.keys, outcomes.classes + 1)
    segment, label = np.divmod(rest, max(1, outcomes.classes))
    is_right = shifted - 1 == label
    np.add.at(every, (segment, label), outcomes.counts)
    np.add.at(right, (segment[is_right], label[is_right]), outcomes.counts[is_right])
    np.add.at(given, shifted, outcomes.counts)
    return Performance(
        accuracy=confidence_sequence(int(right.sum()), int(every.sum()), alpha),
        segments=_rates(right.sum(axis=1), every.sum(axis=1), alpha),
        recall=_rates(right.sum(axis=0), every.sum(axis=0), alpha),
        precision=_rates(right.sum(axis=0), given[1:], alpha),
    )


def standing(accuracy: Rate, floor: float) -> Standing:
    """Say whether an accuracy is surely at or above a floor, surely below, or neither."""
    if accuracy.high < floor:
        return Standing.BELOW
    return Standing.ABOVE if accuracy.low >= floor else Standing.INCONCLUSIVE


def calibration(baseline: Baseline) -> Floats | None:
    """Return the share of right answers in each bin of the confidence, None without a table.

    min(1, (right + .5) / (n + .55)), and .5 where no held-out row fell.
    """
    if baseline.right is UNSET:
        return None
    rows = np.array(baseline.columns[-2].counts[2:-1], dtype=np.float64)
    right = np.array(baseline.right[2:-1], dtype=np.float64)
    share: Floats = np.where(rows > 0, np.minimum(1.0, (right + 0.5) / (rows + 0.55)), 0.5)
    return share


def label_free(sketch: Sketch, *, is_drifting: bool) -> LabelFree | None:
    """Return the confidence-based performance estimate (CBPE), None without a table or answers.

    A confidence lower or higher than any held-out one counts with the nearest bin.
    """
    shares = calibration(sketch.baseline)
    if shares is None:
        return None
    counts = sketch.counts_of(len(sketch.baseline.columns) - 2)
    held = counts[2:-1].astype(np.float64)
    held[0] += counts[1]
    held[-1] += counts[-1]
    if not held.sum():
        return None
    return LabelFree(float(held @ shares / held.sum()), int(held.sum()), is_drifting)


def _rates(
    k: np.typing.NDArray[np.int64], n: np.typing.NDArray[np.int64], alpha: float
) -> tuple[Rate, ...]:
    return tuple(
        confidence_sequence(int(right), int(every), alpha)
        for right, every in zip(k, n, strict=True)
    )
