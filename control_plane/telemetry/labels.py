"""What feedback says about answers: pure counting. Where feedback waits, the store knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from firmware_bundles.wire.columns import UNKNOWN, Labels, Predictions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Given(NamedTuple):
    """One business value: `quanta` of 2 ** -`exponent`."""

    name: str
    exponent: int
    quanta: int


class Truth(NamedTuple):
    """What was told of one prediction: its label, UNKNOWN if none, and business values."""

    incarnation: str
    sequence: int
    label: int
    values: tuple[Given, ...] = ()


class Answer(NamedTuple):
    """What was answered, UNKNOWN for no class, and the segment that the request named."""

    predicted: int
    segment: int


class Settled(NamedTuple):
    """A truth beside its answer."""

    truth: Truth
    answer: Answer


class Sorted(NamedTuple):
    """Truths whose answers are known, and those that still want one."""

    settled: list[Settled]
    wanted: list[Truth]


class Cell(NamedTuple):
    """One sort of outcome."""

    segment: int
    label: int
    predicted: int


class Measure(NamedTuple):
    """Which business value, of which scale and segment."""

    name: str
    exponent: int
    segment: int


class Sums(NamedTuple):
    """Moments in quanta."""

    n: int
    total: int
    total2: int
    minimum: int
    maximum: int

    def plus(self, other: Sums) -> Sums:
        """The moments of both."""
        return Sums(
            self.n + other.n,
            self.total + other.total,
            self.total2 + other.total2,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


class Counted(NamedTuple):
    """How often each outcome came, and what business values add up to."""

    cells: dict[Cell, int]
    values: dict[Measure, Sums]

    @property
    def labelled(self) -> int:
        """How many answers were labelled."""
        return sum(self.cells.values())

    @property
    def wrong(self) -> int:
        """How many of them were wrong."""
        return sum(n for cell, n in self.cells.items() if cell.label != cell.predicted)


def sort(rows: Labels) -> Sorted:
    """Read the rows of a labels segment."""
    names, exponents = rows.values.names, rows.values.exponents
    brought: dict[int, list[Given]] = {}
    told = (rows.values.row, rows.values.name, rows.values.quanta)
    for row, name, quanta in zip(*(each.tolist() for each in told), strict=True):
        brought.setdefault(row, []).append(Given(names[name], exponents[name], quanta))
    found = Sorted([], [])
    columns = (rows.incarnation, rows.prediction, rows.labels, rows.predicted, rows.places)
    for at, row in enumerate(zip(*(each.tolist() for each in columns), strict=True)):
        incarnation, sequence, label, predicted, segment = row
        values = tuple(brought.get(at, ()))
        truth = Truth(rows.incarnations[incarnation], sequence, label, values)
        if segment == UNKNOWN:
            found.wanted.append(truth)
        else:
            found.settled.append(Settled(truth, Answer(predicted, segment)))
    return found


def join(answers: Predictions, wanted: Sequence[Truth]) -> Sorted:
    """Settle those of the truths, all of the answers' incarnation, whose prediction is here."""
    places = zip(answers.classes.tolist(), answers.places.tolist(), strict=True)
    known = dict(zip(answers.sequence.tolist(), map(Answer._make, places), strict=True))
    return Sorted(
        [Settled(each, known[each.sequence]) for each in wanted if each.sequence in known],
        [each for each in wanted if each.sequence not in known],
    )


def count(settled: Iterable[Settled]) -> Counted:
    """Count outcomes, and add business values up. An answer without a class is wrong."""
    counted = Counted({}, {})
    for truth, answer in settled:
        if truth.label != UNKNOWN:
            cell = Cell(answer.segment, truth.label, answer.predicted)
            counted.cells[cell] = counted.cells.get(cell, 0) + 1
        for name, exponent, quanta in truth.values:
            measure = Measure(name, exponent, answer.segment)
            one = Sums(1, quanta, quanta * quanta, quanta, quanta)
            known = counted.values.get(measure)
            counted.values[measure] = known.plus(one) if known else one
    return counted
