"""What true labels say about answers: pure counting. Where labels wait, the store knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from firmware_bundles.wire.columns import UNKNOWN, Labels, Predictions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Wanted(NamedTuple):
    """A label whose answer the device no longer knew: it names its prediction."""

    incarnation: str
    sequence: int
    label: int


class Score(NamedTuple):
    """How many answers were labelled, and how many of them were wrong."""

    labelled: int
    wrong: int

    def plus(self, other: Score) -> Score:
        """The sum of both."""
        return Score(self.labelled + other.labelled, self.wrong + other.wrong)


NOTHING = Score(0, 0)


class Judged(NamedTuple):
    """The labels of a segment: those that brought their answers, and those that want one."""

    score: Score
    wanted: list[Wanted]


class Joined(NamedTuple):
    """The score of the labels whose answers were found, and the labels that still want one."""

    score: Score
    wanted: list[Wanted]


def judge(rows: Labels) -> Judged:
    """Score what can be scored at once."""
    is_known = rows.predicted != UNKNOWN
    wrong = np.count_nonzero(is_known & (rows.predicted != rows.labels))
    missing = np.flatnonzero(~is_known).tolist()
    return Judged(
        Score(int(np.count_nonzero(is_known)), int(wrong)),
        [
            Wanted(
                rows.incarnations[int(rows.incarnation[at])],
                int(rows.prediction[at]),
                int(rows.labels[at]),
            )
            for at in missing
        ],
    )


def join(answers: Predictions, wanted: Sequence[Wanted]) -> Joined:
    """Score those of the labels, all of the answers' incarnation, whose prediction is here.

    A prediction of a model without classes cannot be scored: its label is used up all the same.
    """
    classes = dict(zip(answers.sequence.tolist(), answers.classes.tolist(), strict=True))
    found = [(classes[each.sequence], each.label) for each in wanted if each.sequence in classes]
    return Joined(
        _score(pair for pair in found if pair[0] != UNKNOWN),
        [each for each in wanted if each.sequence not in classes],
    )


def _score(pairs: Iterable[tuple[int, int]]) -> Score:
    score = NOTHING
    for answered, label in pairs:
        score = score.plus(Score(1, int(answered != label)))
    return score
