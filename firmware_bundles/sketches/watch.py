"""One device's watch over one model: commissioning, then windows tested over whole cycles.

Pure: windows and their times come in, a verdict comes out; `Watch` is all that must be kept.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import UNSET

from firmware_bundles.sketches import evidence as of
from firmware_bundles.sketches.baseline import Baseline, ColumnKind
from firmware_bundles.sketches.change import QUESTIONS, Reference
from firmware_bundles.sketches.evidence import Evidence
from firmware_bundles.sketches.sketch import Sketch

REFERENCE_ROWS: Final = 5_000
_CYCLE_EXCESS_MAX: Final = 0.05  # of the span: what may stick out beyond whole cycles
_SUDDEN_WINDOWS: Final = 3
_NAMED_SHARE: Final = 0.01


class State(StrEnum):
    """What can be said after a window."""

    COMMISSIONING = "commissioning"
    INCONCLUSIVE = "inconclusive"
    STABLE = "stable"
    CHANGED = "changed"


class Settings(NamedTuple):
    """`threshold` is devices times the windows wanted between two false alarms of the fleet."""

    reference_rows: int = REFERENCE_ROWS
    threshold: float = of.THRESHOLD


class Span(NamedTuple):
    """Windows that are gathered until they span whole cycles; Unix seconds."""

    sketch: Sketch
    started: float
    ended: float


class Watch(NamedTuple):
    """What is known of a device; `reference` is None until commissioning is complete."""

    gathered: Span | None = None
    reference: Reference | None = None
    evidence: Evidence | None = None


class Finding(NamedTuple):
    """A column that changed: what was asked, its score, and since how many tested windows."""

    column: str
    kind: ColumnKind
    question: str
    score: float
    windows: int

    @property
    def is_sudden(self) -> bool:
        """Whether the evidence came within a few windows, as after a step and not a slow ramp."""
        return self.windows <= _SUDDEN_WINDOWS


class Verdict(NamedTuple):
    """What a window led to; `findings` are of a change, the strongest first."""

    state: State
    score: float = 0.0
    findings: tuple[Finding, ...] = ()


def rows_until_sure(baseline: Baseline, settings: Settings | None = None) -> int:
    """Return the predictions of a device after which its watch can say that it is stable."""
    reference_rows = (settings or Settings()).reference_rows
    return (reference_rows + baseline.window_rows) * baseline.stride


def seconds_until_sure(baseline: Baseline) -> float:
    """Return how long that takes at least: commissioning and a window span a whole cycle each."""
    return 0.0 if baseline.cycle_s is UNSET else 2 * baseline.cycle_s


def advance(watch: Watch, window: Span, settings: Settings) -> tuple[Watch, Verdict]:
    """Take in one window and say what it shows. Raises ValueError on another model's window.

    Windows come in order of time. After a change the evidence starts anew, so that an alarm that
    persists rings again; the reference stays until the device is commissioned anew.
    """
    gathered = _joined(watch.gathered, window)
    baseline = gathered.sketch.baseline
    rows_min = baseline.window_rows if watch.reference else settings.reference_rows
    if gathered.sketch.rows < rows_min or not _spans_cycles(gathered, baseline):
        state = State.INCONCLUSIVE if watch.reference else State.COMMISSIONING
        return watch._replace(gathered=gathered), Verdict(state, _score(watch))
    if watch.reference is None or watch.evidence is None:
        reference = Reference(gathered.sketch, baseline.window_rows)
        streams = len(QUESTIONS) * len(baseline.columns)
        return Watch(None, reference, of.nothing(streams)), Verdict(State.COMMISSIONING)
    evidence = of.advance(watch.evidence, watch.reference.p_values(gathered.sketch))
    if evidence.score < settings.threshold:
        return Watch(None, watch.reference, evidence), Verdict(State.STABLE, evidence.score)
    fresh = of.nothing(len(evidence.scores))
    verdict = Verdict(State.CHANGED, evidence.score, _findings(baseline, evidence))
    return Watch(None, watch.reference, fresh), verdict


def _joined(gathered: Span | None, window: Span) -> Span:
    both = Sketch(window.sketch.baseline)
    both.merge(window.sketch)
    if gathered is None:
        return Span(both, window.started, window.ended)
    both.merge(gathered.sketch)
    return Span(both, gathered.started, window.ended)


def _spans_cycles(span: Span, baseline: Baseline) -> bool:
    """Whether day and night have their share: at least one cycle, and hardly more than whole."""
    if baseline.cycle_s is UNSET:
        return True
    seconds, slack = span.ended - span.started, _CYCLE_EXCESS_MAX * (span.ended - span.started)
    nearest = round(seconds / baseline.cycle_s)
    return nearest >= 1 and abs(seconds - nearest * baseline.cycle_s) <= slack


def _score(watch: Watch) -> float:
    return watch.evidence.score if watch.evidence else 0.0


def _findings(baseline: Baseline, evidence: Evidence) -> tuple[Finding, ...]:
    columns = len(baseline.columns)
    total = evidence.scores.sum()
    named = [
        Finding(
            column=baseline.columns[place % columns].name,
            kind=baseline.columns[place % columns].kind,
            question=QUESTIONS[place // columns],
            score=float(score),
            windows=int(evidence.ages[place]),
        )
        for place, score in enumerate(evidence.scores)
        if score >= _NAMED_SHARE * total
    ]
    return tuple(sorted(named, key=lambda finding: -finding.score))
