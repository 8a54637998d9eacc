"""Live answers beside a shadow's to the same inputs: pure counting, input by input.

A shadow's segment numbers its rows as the live predictions. Which segments those are, the store
knows; what follows from the counts is the gates' affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from firmware_bundles.wire.columns import (
    UNKNOWN,
    Predictions,
    decode_labels,
    decode_predictions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from control_plane.store.shadows import Mirrored

_SCORE_STEPS = 255


class Comparison(NamedTuple):
    """What was compared. Sums, so that comparisons add up.

    `score_difference_sum` adds the largest difference of a score in each pair; the shadow's latency
    is processor time. Of `labelled` pairs, `live_wrong` and `shadow_wrong` were wrong, `both_wrong`
    together: the discordant pairs are what is left.
    """

    pairs: int = 0
    agreed: int = 0
    score_difference_sum: float = 0.0
    live_latency_us_sum: int = 0
    shadow_latency_us_sum: int = 0
    labelled: int = 0
    live_wrong: int = 0
    shadow_wrong: int = 0
    both_wrong: int = 0

    def plus(self, other: Comparison) -> Comparison:
        """The sum of both."""
        return Comparison._make(a + b for a, b in zip(self, other, strict=True))


def compare(live: Predictions, shadow: Predictions, labels: Mapping[int, int]) -> Comparison:
    """Compare the rows of one incarnation that both hold; `labels` by sequence."""
    sequence, at_live, at_shadow = np.intersect1d(
        live.sequence, shadow.sequence, assume_unique=True, return_indices=True
    )
    ours, theirs = live.classes[at_live], shadow.classes[at_shadow]
    truth = np.array([labels.get(each, UNKNOWN) for each in sequence.tolist()], dtype=np.int64)
    is_labelled = (truth != UNKNOWN) & (ours != UNKNOWN) & (theirs != UNKNOWN)
    live_wrong, shadow_wrong = (is_labelled & (each != truth) for each in (ours, theirs))
    return Comparison(
        pairs=len(sequence),
        agreed=int(np.count_nonzero(ours == theirs)),
        score_difference_sum=_difference(live.scores[at_live], shadow.scores[at_shadow]),
        live_latency_us_sum=int(live.latency_us[at_live].sum()),
        shadow_latency_us_sum=int(shadow.latency_us[at_shadow].sum()),
        labelled=int(np.count_nonzero(is_labelled)),
        live_wrong=int(np.count_nonzero(live_wrong)),
        shadow_wrong=int(np.count_nonzero(shadow_wrong)),
        both_wrong=int(np.count_nonzero(live_wrong & shadow_wrong)),
    )


class Pair(NamedTuple):
    """A device, the digest of what answered there, and of its shadow."""

    device_id: str
    live: str
    shadow: str


def total(found: Iterable[Mirrored]) -> dict[Pair, Comparison]:
    """Return what all segments compare, by device and models."""
    totals: dict[Pair, Comparison] = {}
    for each in found:
        shadow = decode_predictions(each.body)
        labels = _told(each.labels, each.incarnation)
        for model, body in each.live:
            pair = Pair(each.device_id, model, each.shadow)
            compared = compare(decode_predictions(body), shadow, labels)
            totals[pair] = totals.get(pair, Comparison()).plus(compared)
    return {pair: compared for pair, compared in totals.items() if compared.pairs}


def _told(bodies: Iterable[bytes], incarnation: str) -> dict[int, int]:
    """Return the labels for predictions of one incarnation, by sequence."""
    labels: dict[int, int] = {}
    for rows in map(decode_labels, bodies):
        names = [rows.incarnations[at] for at in rows.incarnation.tolist()]
        told = zip(names, rows.prediction.tolist(), rows.labels.tolist(), strict=True)
        labels |= {sequence: label for name, sequence, label in told if name == incarnation}
    return labels


def _difference(live: NDArray[np.uint8], shadow: NDArray[np.uint8]) -> float:
    """Add up the largest difference of each row; scores of another width cannot be compared."""
    if live.shape != shadow.shape or not live.size:
        return 0.0
    return float(np.abs(live.astype(np.int64) - shadow).max(axis=1).sum() / _SCORE_STEPS)
