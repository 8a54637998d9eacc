"""When a model should be trained anew: a change that persists, and evidence about its answers.

Pure. Drift alone is no reason: inputs change without harm. Labels are the evidence; without enough
of them the label-free estimate may stand in, and is called weak, for under concept drift it stays
high while the truth falls. Labels that exclude the estimate end the matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import UNSET

from control_plane.alerts.decision import Kind, Signal
from control_plane.alerts.signals import DEVICES_NAMED_MAX, named, names
from firmware_bundles.sketches.intervals import Rate, confidence_sequence
from firmware_bundles.sketches.performance import Standing, standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from control_plane.telemetry.standing import WatchRow
    from firmware_bundles.sketches.baseline import Baseline
    from firmware_bundles.sketches.performance import LabelFree

PERSIST_RINGS: Final = 3
LABEL_FREE_ROWS_MIN: Final = 300
WEAK: Final = (
    "weak evidence: an estimate from the model's own confidence on inputs that changed;"
    " labels would tell"
)


class Labels(NamedTuple):
    """Labels that came since the change, and how many of them contradicted the model."""

    labelled: int
    wrong: int


class Case(NamedTuple):
    """What speaks for training one model anew: devices that changed, and what is known of it."""

    family: str
    model: str
    version: str | None
    rows: Sequence[WatchRow]
    labels: Labels
    label_free: LabelFree | None


def persisting(rows: Sequence[WatchRow], rings: int = PERSIST_RINGS) -> list[WatchRow]:
    """Return the devices whose change went on ringing."""
    return [row for row in rows if row.standing.is_changed and row.standing.rings >= rings]


def since(rows: Sequence[WatchRow]) -> float:
    """Return when the first of these changes began."""
    return min(row.standing.since for row in rows)


def accuracy_of(baseline: Baseline) -> Rate | None:
    """Return how right the model was on the held-out rows, None if the baseline does not say."""
    if baseline.right is UNSET:
        return None
    return confidence_sequence(sum(baseline.right), baseline.rows)


def trigger(case: Case, baseline: Baseline) -> Signal | None:
    """Return the reason to train a model anew, None without one."""
    before = accuracy_of(baseline)
    if before is None or not case.rows:
        return None
    right = case.labels.labelled - case.labels.wrong
    told = confidence_sequence(right, case.labels.labelled)
    by_labels = standing(told, before.low)
    if by_labels is Standing.BELOW:
        return _signal(case, before, told, None)
    weak = _weak(case.label_free, before, told)
    if by_labels is Standing.INCONCLUSIVE and weak is not None:
        return _signal(case, before, told, weak)
    return None


def _weak(found: LabelFree | None, before: Rate, told: Rate) -> LabelFree | None:
    """The estimate where it says worse; labels that exclude what it says beat it."""
    if found is None or found.rows < LABEL_FREE_ROWS_MIN:
        return None
    return found if told.low <= found.accuracy < before.low else None


def _signal(case: Case, before: Rate, told: Rate, weak: LabelFree | None) -> Signal:
    said = (
        f"labels say {told.value:.1%} are right"
        if weak is None
        else f"its confidence promises only {weak.accuracy:.1%} (weak evidence)"
    )
    return Signal(
        Kind.RETRAINING,
        f"{case.family} {case.version or case.model[:8]} may need training: {len(case.rows)}"
        f" device{'' if len(case.rows) == 1 else 's'} changed and stayed so, and {said},"
        f" {before.value:.1%} before",
        family=case.family,
        model=case.model,
        about=case.model,  # while a rollout is under way, a family has two
        details={
            "version": case.version,
            "evidence": "labels" if weak is None else "label_free",
            "drift": _drift(case.rows),
            "before": _rate(before),
            "labels": _rate(told),
            "label_free": _estimate(weak),
            "command": command(case),
        },
    )


def command(case: Case) -> str:
    """Return what writes the samples of a case to a file."""
    version = "" if case.version is None else f" --version {case.version}"
    return (
        f"shoal samples export --family {case.family}{version}"
        f" --since {since(case.rows):.0f} --out samples.parquet"
    )


def _drift(rows: Sequence[WatchRow]) -> dict[str, Any]:
    strongest = max(rows, key=lambda row: row.standing.rings)
    return {
        "devices": len(rows),
        "named": [row.key.device_id for row in rows[:DEVICES_NAMED_MAX]],
        "since": since(rows),
        "rings": strongest.standing.rings,
        "columns": names(strongest.standing.findings),
        "findings": named(strongest.standing.findings),
    }


def _rate(rate: Rate) -> dict[str, Any]:
    value = rate.value if rate.n else None
    return {"n": rate.n, "right": rate.k, "value": value, "low": rate.low, "high": rate.high}


def _estimate(weak: LabelFree | None) -> dict[str, Any] | None:
    if weak is None:
        return None
    return {"accuracy": weak.accuracy, "rows": weak.rows, "caution": WEAK}
