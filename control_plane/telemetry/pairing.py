"""Pairs of answers to the same input, of what serves and of its shadow: counted as they arrive.

An input counts as paired once both answers are here, and as labelled once its truth is, too:
whichever segment comes last counts it, so that each counts once. What the counts mean is the gates'
affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from firmware_bundles.wire.columns import UNKNOWN, Labels, Predictions, decode_predictions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from control_plane.store.pairs import PairIntake
    from control_plane.telemetry.labels import Settled
    from firmware_bundles.wire.messages import Segment


class Paired(NamedTuple):
    """What was counted; `live_only` and `shadow_only`: labelled, and one alone got it wrong."""

    pairs: int = 0
    agreed: int = 0
    labelled: int = 0
    live_only: int = 0
    shadow_only: int = 0

    def plus(self, other: Paired) -> Paired:
        """The sum of both."""
        return Paired._make(a + b for a, b in zip(self, other, strict=True))


class Told(NamedTuple):
    """The truth about one prediction, and what was answered live."""

    label: int
    live: int


def match(live: Predictions, shadow: Predictions) -> Paired:
    """Count the inputs that both answered, and how many of them alike."""
    _, at_live, at_shadow = np.intersect1d(
        live.sequence, shadow.sequence, assume_unique=True, return_indices=True
    )
    agreed = np.count_nonzero(live.classes[at_live] == shadow.classes[at_shadow])
    return Paired(pairs=len(at_live), agreed=int(agreed))


def judge(told: Mapping[int, Told], shadow: Predictions) -> Paired:
    """Count the labelled inputs, by sequence, that the shadow answered. No class is wrong."""
    found = Paired()
    for sequence, answered in zip(shadow.sequence.tolist(), shadow.classes.tolist(), strict=True):
        truth = told.get(sequence)
        if truth is None:
            continue
        live, ours = truth.live != truth.label, answered != truth.label
        one = Paired(
            labelled=1, live_only=int(live and not ours), shadow_only=int(ours and not live)
        )
        found = found.plus(one)
    return found


def settle_shadow(intake: PairIntake, device_id: str, sealed: Segment, rows: Predictions) -> None:
    """Count what a shadow's segment completes."""
    labels = dict(_labels(intake.labels(device_id, sealed), sealed.key.incarnation))
    told: dict[str, dict[int, Told]] = {}
    for beside in intake.live(device_id, sealed):
        live = decode_predictions(beside.body)
        classes = dict(zip(live.sequence.tolist(), live.classes.tolist(), strict=True))
        intake.add(device_id, sealed, beside.model, sealed.model, match(live, rows))
        found = {each: Told(labels[each].label, classes[each]) for each in labels.keys() & classes}
        told.setdefault(beside.model, {}).update(found)
        labels = {each: known for each, known in labels.items() if each not in found}
    for sequence, known in labels.items():
        # The live answer is not here yet, but its label brought it.
        if known.live != UNKNOWN:
            told.setdefault(known.model, {})[sequence] = Told(known.label, known.live)
    for model, truths in told.items():
        intake.add(device_id, sealed, model, sealed.model, judge(truths, rows))


def settle_live(intake: PairIntake, device_id: str, sealed: Segment, rows: Predictions) -> None:
    """Count the pairs that live predictions complete; labels are counted as they settle."""
    for beside in intake.shadows(device_id, sealed.key.incarnation, sealed):
        shadow = decode_predictions(beside.body)
        intake.add(device_id, sealed, sealed.model, beside.model, match(rows, shadow))


def settle_truths(
    intake: PairIntake, device_id: str, by: Segment, model: str, settled: Sequence[Settled]
) -> None:
    """Count the labelled pairs that truths complete, which the segment `by` settled."""
    told: dict[str, dict[int, Told]] = {}
    for truth, answer in settled:
        if truth.label != UNKNOWN:
            one = told.setdefault(truth.incarnation, {})
            one[truth.sequence] = Told(truth.label, answer.predicted)
    for incarnation, truths in told.items():
        for beside in intake.shadows_at(device_id, incarnation, truths):
            counted = judge(truths, decode_predictions(beside.body))
            intake.add(device_id, by, model, beside.model, counted)


class _Known(NamedTuple):
    label: int
    live: int
    model: str


def _labels(bodies: Iterable[tuple[str, Labels]], incarnation: str) -> Iterator[tuple[int, _Known]]:
    """Yield the labels of one incarnation by sequence, the first one told last, so that it wins."""
    for model, rows in reversed(list(bodies)):
        names = [rows.incarnations[at] for at in rows.incarnation.tolist()]
        columns = (rows.prediction, rows.labels, rows.predicted)
        told = list(zip(names, *(each.tolist() for each in columns), strict=True))
        for name, sequence, label, live in reversed(told):
            if name == incarnation and label != UNKNOWN:
                yield sequence, _Known(label, live, model)
