"""How well models do and whom they treat how, from stored sums: pure.

Labels come as counters, predictions without labels as windows; what each number means stands in
`firmware_bundles.sketches`.
"""

from __future__ import annotations

from math import nan, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from firmware_bundles.sketches import fairness as gaps
from firmware_bundles.sketches.intervals import Rate, confidence_sequence
from firmware_bundles.sketches.outcomes import Outcomes
from firmware_bundles.sketches.performance import LabelFree, label_free, performance
from firmware_bundles.sketches.skew import is_surely_beyond

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from control_plane.store.outcomes import LabelRow, OutcomeRow, ValueRow
    from firmware_bundles.sketches.baseline import Baseline
    from firmware_bundles.sketches.sketch import Sketch

SKEW_FLAGGED: Final = 0.1
"""PSI beyond chance from which, surely, an estimate without labels is not to be trusted."""
_CLASSES: Final = 2  # the favourable one, and the rest


class Material(NamedTuple):
    """What is known of one model in one group of so many devices.

    `has_rung` says whether the watch over one of them found a change in the last day.
    """

    devices: int
    labels: Sequence[LabelRow]
    outcomes: Sequence[OutcomeRow]
    values: Sequence[ValueRow]
    baseline: Baseline | None
    windows: Sketch | None
    has_rung: bool = False


class NamedRate(NamedTuple):
    """The rate of one segment or class."""

    name: str
    rate: Rate


class ValueSummary(NamedTuple):
    """One business value in one segment, in its own unit; `deviation` is its standard deviation."""

    name: str
    segment: str
    n: int
    mean: float
    deviation: float
    minimum: float
    maximum: float


class Assessment(NamedTuple):
    """Rates with confidence sequences: they hold however often one looks.

    `estimate` is what confidences promise (CBPE), beside whether what came in has drifted, None
    without a calibration table or windows.
    """

    devices: int
    labelled: int
    wrong: int
    accuracy: Rate
    segments: tuple[NamedRate, ...]
    recall: tuple[NamedRate, ...]
    precision: tuple[NamedRate, ...]
    estimate: LabelFree | None
    values: tuple[ValueSummary, ...]


class Treatment(NamedTuple):
    """How segments differ; `parity` counts all predictions of windows, the others labelled ones."""

    favourable: str
    parity: gaps.Gap
    opportunity: gaps.Gap
    false_positives: gaps.Gap
    equalised_odds: float


def assess(material: Material) -> Assessment:
    """Say how well a model does."""
    labelled = sum(row.labelled for row in material.labels)
    wrong = sum(row.wrong for row in material.labels)
    outcomes = pool(material.outcomes, material.baseline)
    rates = performance(outcomes)
    names = segment_names(material.baseline, outcomes.segments)
    classes = _class_names(material.baseline, outcomes.classes)
    return Assessment(
        devices=material.devices,
        labelled=labelled,
        wrong=wrong,
        accuracy=confidence_sequence(labelled - wrong, labelled),
        segments=_named(names, rates.segments),
        recall=_named(classes, rates.recall),
        precision=_named(classes, rates.precision),
        estimate=_estimate(material.windows, has_rung=material.has_rung),
        values=tuple(summaries(material.values, material.baseline)),
    )


def treat(material: Material, favourable: int, rows_min: int) -> Treatment:
    """Say how differently segments are treated, for one favourable class against the rest."""
    outcomes = pool(material.outcomes, material.baseline)
    names = segment_names(material.baseline, outcomes.segments)
    found = gaps.fairness(_against_the_rest(outcomes, favourable), names, 1, rows_min)
    parity = found.demographic_parity
    if material.windows is not None and material.windows.rows:
        parity = gaps.demographic_parity(material.windows.answers, names, favourable, rows_min)
    return Treatment(
        favourable=_class_names(material.baseline, outcomes.classes)[favourable],
        parity=parity,
        opportunity=found.equal_opportunity,
        false_positives=found.false_positives,
        equalised_odds=found.equalised_odds,
    )


def pool(rows: Iterable[OutcomeRow], baseline: Baseline | None) -> Outcomes:
    """Add outcomes up; what does not fit the baseline's segments and classes is left out."""
    kept = list(rows)
    segments = max((row.segment + 1 for row in kept), default=1)
    classes = max((max(row.label, row.predicted) + 1 for row in kept), default=1)
    if baseline is not None:
        segments, classes = len(baseline.segments), max(1, len(baseline.labels))
    pooled = Outcomes(segments, classes)
    cells: dict[int, int] = {}
    for row in kept:
        if row.segment < segments and max(row.label, row.predicted) < classes:
            key = (row.segment * classes + row.label) * (classes + 1) + row.predicted + 1
            cells[key] = cells.get(key, 0) + row.rows
    pooled.keys = np.array(sorted(cells), dtype=np.int64)
    pooled.counts = np.array([cells[key] for key in sorted(cells)], dtype=np.int64)
    return pooled


def summaries(rows: Iterable[ValueRow], baseline: Baseline | None) -> list[ValueSummary]:
    """Return each business value by segment."""
    groups: dict[tuple[str, int, int], list[ValueRow]] = {}
    for row in rows:
        groups.setdefault((row.name, row.segment, row.exponent), []).append(row)
    names = segment_names(baseline, max((place + 1 for _, place, _ in groups), default=1))
    return [
        _summary(name, names[place], 2.0**-exponent, group)
        for (name, place, exponent), group in sorted(groups.items())
    ]


def segment_names(baseline: Baseline | None, count: int) -> list[str]:
    """Return how segments are called: by their place where no baseline says it."""
    known = baseline.segments if baseline else ()
    return [name or "-" for name in known] + [str(at) for at in range(len(known), count)]


def _class_names(baseline: Baseline | None, count: int) -> list[str]:
    known = baseline.labels if baseline else ()
    return [*known, *(str(at) for at in range(len(known), count))]


def _named(names: Sequence[str], rates: Sequence[Rate]) -> tuple[NamedRate, ...]:
    return tuple(NamedRate(*each) for each in zip(names, rates, strict=True) if each[1].n)


def _estimate(windows: Sketch | None, *, has_rung: bool) -> LabelFree | None:
    if windows is None:
        return None
    is_drifting = has_rung or is_surely_beyond(windows, SKEW_FLAGGED)
    return label_free(windows, is_drifting=is_drifting)


def _against_the_rest(outcomes: Outcomes, favourable: int) -> Outcomes:
    """Fold all classes but one into class 0: tables of many classes would not fit memory."""
    rest, shifted = np.divmod(outcomes.keys, outcomes.classes + 1)
    segment, label = np.divmod(rest, outcomes.classes)
    is_wanted, is_given = label == favourable, shifted - 1 == favourable
    keys = (segment * _CLASSES + is_wanted) * (_CLASSES + 1) + is_given + 1
    folded = Outcomes(outcomes.segments, _CLASSES)
    folded.keys, places = np.unique(keys, return_inverse=True)
    folded.counts = np.bincount(places, weights=outcomes.counts, minlength=len(folded.keys)).astype(
        np.int64
    )
    return folded


def _summary(name: str, segment: str, quantum: float, rows: Sequence[ValueRow]) -> ValueSummary:
    n, total = sum(row.n for row in rows), sum(row.total for row in rows)
    total2 = sum(row.total2 for row in rows)
    spread = (n * total2 - total * total) / (n * (n - 1)) if n > 1 else nan
    return ValueSummary(
        name=name,
        segment=segment,
        n=n,
        mean=total / n * quantum,
        deviation=sqrt(spread) * quantum if n > 1 else nan,
        minimum=min(row.minimum for row in rows) * quantum,
        maximum=max(row.maximum for row in rows) * quantum,
    )
