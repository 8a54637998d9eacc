"""The gates as a table: counts in, verdict and numbers out."""

from __future__ import annotations

import msgspec
import pytest

from control_plane.rollouts.gates import INSTALLS, judge
from control_plane.rollouts.gates.label_errors import NAME as LABEL_ERRORS
from control_plane.rollouts.model import (
    Counts,
    Finding,
    FleetView,
    LabelCounts,
    PhaseState,
    Rollout,
    Standing,
    Verdict,
    worst,
)
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.statistics import Arm

SPEC = """
family: digits
release: "2"
cohort: all
phases: [{count: 10, timeout_s: 60}, {count: 20, timeout_s: 60}]
gates:
  installs: {failed_share_max: 0.2, silent_share_max: 0.1, finished_min: 3}
  label_errors: {margin: 0.05, labels_min: 100}
"""
ABSOLUTE = SPEC.replace("labels_min: 100", "labels_min: 100, error_rate_max: 0.1")


FEW = SPEC.replace("[{count: 10,", "[{count: 9,")


def _judge(
    view: FleetView, *, after_s: float = 1.0, phase: int = 0, spec: str = SPEC
) -> dict[str, Finding]:
    standing = Standing(phase=phase, phase_state=PhaseState.OFFERING)
    rollout = Rollout(id="r", spec=parse(spec), release_path="p", standing=standing)
    return {finding.gate: finding for finding in judge(rollout, view, after_s)}


def _view(*phases: Counts) -> FleetView:
    filled = [*phases, Counts(), Counts()][:2]
    return FleetView(phases=tuple(filled), members=20, control_devices=10)


@pytest.mark.parametrize(
    ("counts", "after_s", "verdict"),
    [
        (Counts(planned=10), 1, Verdict.INCONCLUSIVE),
        (Counts(waiting=10), 1, Verdict.INCONCLUSIVE),
        (Counts(waiting=8, failed=2), 1, Verdict.INCONCLUSIVE),
        (Counts(waiting=7, failed=3), 1, Verdict.FAIL),
        (Counts(waiting=7, rolled_back=3), 1, Verdict.FAIL),
        (Counts(waiting=7, failed=1, rolled_back=1, differing=1), 1, Verdict.FAIL),
        (Counts(in_progress=1, committed=9), 59, Verdict.INCONCLUSIVE),
        (Counts(in_progress=1, committed=9), 60, Verdict.PASS),
        (Counts(in_progress=2, committed=8), 60, Verdict.INCONCLUSIVE),
        (Counts(planned=1, waiting=2, committed=8), 60, Verdict.INCONCLUSIVE),
        (Counts(committed=10), 1, Verdict.PASS),
        (Counts(committed=8, failed=2), 1, Verdict.PASS),
        (Counts(committed=2, superseded=8), 1, Verdict.PASS),
        (Counts(superseded=10), 1, Verdict.INCONCLUSIVE),
    ],
)
def test_installs(counts: Counts, after_s: float, verdict: Verdict) -> None:
    """Too many failures fail at once; silence and too few answers are inconclusive."""
    assert _judge(_view(counts), after_s=after_s)[INSTALLS].verdict is verdict


def test_installs_counts_all_offers_so_far() -> None:
    """Devices of passed phases stay in the count: late failures, and who was silent then."""
    first = Counts(committed=8, failed=1, waiting=1)
    found = _judge(_view(first, Counts(committed=7, failed=2, waiting=1)), phase=1)[INSTALLS]
    assert found.samples == {"offered": 20, "finished": 18, "broken": 3, "silent": 1}
    assert found.value == 3 / 20
    assert found.threshold == 0.2


def test_time_runs_from_the_last_offer() -> None:
    """A phase whose offers went out late gives its devices the whole time."""
    late = Counts(waiting=10, offered_first=30.0, offered_last=50.0)
    assert "not yet ended" in _judge(_view(late), after_s=109)[INSTALLS].sentence
    assert "silent" in _judge(_view(late), after_s=110)[INSTALLS].sentence


@pytest.mark.parametrize(
    ("candidate", "control", "verdict"),
    [
        ((0, 0), (0, 0), Verdict.INCONCLUSIVE),
        ((99, 99), (1000, 0), Verdict.INCONCLUSIVE),
        ((1000, 1000), (99, 0), Verdict.INCONCLUSIVE),
        ((100, 6), (100, 0), Verdict.INCONCLUSIVE),
        ((100, 40), (100, 0), Verdict.FAIL),
        ((100, 4), (100, 0), Verdict.PASS),
        ((100, 20), (200, 20), Verdict.INCONCLUSIVE),
        ((2000, 400), (4000, 400), Verdict.FAIL),
        ((2000, 290), (4000, 400), Verdict.PASS),
        ((100, 20), (200, 40), Verdict.PASS),
        ((100, 0), (200, 200), Verdict.PASS),
        ((100, 101), (200, 0), Verdict.ERROR),
        ((100, 0), (200, -1), Verdict.ERROR),
    ],
)
def test_label_errors_of_few_devices(
    candidate: tuple[int, int], control: tuple[int, int], verdict: Verdict
) -> None:
    """Only enough labels on both arms say anything; only what is shown beyond the margin fails."""
    view = msgspec.structs.replace(
        _view(Counts(committed=10)),
        candidate=LabelCounts(labelled=candidate[0], wrong=candidate[1]),
        control=LabelCounts(labelled=control[0], wrong=control[1]),
    )
    found = _judge(view, spec=FEW)[LABEL_ERRORS]
    assert found.verdict is verdict
    assert found.samples == {"candidate": candidate[0], "control": control[0]}


def _arm(share: float, devices: int, *, labels: int = 1_000, spread: float = 0.01) -> LabelCounts:
    shares = [share + (-1) ** place * spread for place in range(devices)]
    by_device = Arm.of(shares, [0.0] * devices, labels)
    return LabelCounts(labelled=labels, wrong=round(share * labels), by_device=by_device)


@pytest.mark.parametrize(
    ("candidate", "control", "verdict", "told"),
    [
        (_arm(0.3, 10), _arm(0.1, 10), Verdict.FAIL, "at least +"),
        (_arm(0.3, 10, spread=0.25), _arm(0.1, 10), Verdict.INCONCLUSIVE, "not shown to be"),
        (_arm(0.16, 10), _arm(0.1, 10), Verdict.INCONCLUSIVE, "not shown to be"),
        (_arm(0.1, 10), _arm(0.1, 10), Verdict.PASS, "would have been found in 95% of cases"),
        (_arm(0.1, 10), _arm(0.9, 10), Verdict.PASS, "-80.0 points"),
        (_arm(0.9, 9), _arm(0.1, 10), Verdict.INCONCLUSIVE, "came from 9 and 10 devices"),
        (_arm(0.9, 10), _arm(0.1, 1), Verdict.INCONCLUSIVE, "came from 10 and 1 devices"),
        (_arm(0.9, 10, labels=199), _arm(0.1, 10), Verdict.INCONCLUSIVE, "199 labels"),
        (_arm(0.9, 10, labels=99), _arm(0.1, 10), Verdict.INCONCLUSIVE, "99 labels"),
    ],
)
def test_label_errors_between_arms(
    candidate: LabelCounts, control: LabelCounts, verdict: Verdict, told: str
) -> None:
    """Where both sides are large enough the device is the unit: devices that differ hide harm."""
    view = msgspec.structs.replace(
        _view(Counts(committed=10)), candidate=candidate, control=control
    )
    found = _judge(view)[LABEL_ERRORS]
    assert found.verdict is verdict
    assert told in found.sentence


@pytest.mark.parametrize(
    ("arms", "verdict"),
    [
        ((_arm(0.1, 19), _arm(0.1, 20)), Verdict.INCONCLUSIVE),
        ((_arm(0.1, 20), _arm(0.1, 20)), Verdict.INCONCLUSIVE),
        ((_arm(0.1, 20, labels=20_000), _arm(0.1, 20, labels=20_000)), Verdict.PASS),
    ],
)
def test_non_inferiority_has_to_be_shown(
    arms: tuple[LabelCounts, LabelCounts], verdict: Verdict
) -> None:
    """Where it is asked for, no harm found is not enough: an excess has to be excluded."""
    spec = SPEC.replace("margin: 0.05", "margin: 0.05, is_non_inferiority_needed: true")
    view = msgspec.structs.replace(_view(Counts(committed=10)), candidate=arms[0], control=arms[1])
    assert _judge(view, spec=spec)[LABEL_ERRORS].verdict is verdict
    few = spec.replace("[{count: 10,", "[{count: 9,")
    assert _judge(view, spec=few)[LABEL_ERRORS].verdict is Verdict.INCONCLUSIVE


def test_inconclusive_gates_say_how_long_they_may_wait() -> None:
    """Time left counts from the last offer for installs, from the start of the soak for labels."""
    waiting = Counts(waiting=10, offered_first=0.0, offered_last=10.0)
    found = _judge(_view(waiting), after_s=30)
    assert (found[INSTALLS].left_s, found[LABEL_ERRORS].left_s) == (40, None)
    rollout = Rollout(
        id="r",
        spec=parse(SPEC.replace("labels_min: 100", "labels_min: 100, deadline_s: 9000")),
        release_path="p",
        standing=Standing(phase_state=PhaseState.SOAKING, since=1_000.0),
    )
    installs, labels = judge(rollout, _view(Counts(committed=10)), 2_000.0)
    assert (installs.left_s, labels.left_s) == (None, 8_000)


@pytest.mark.parametrize(
    ("spec", "candidate", "verdict"),
    [
        (SPEC, (1000, 900), None),
        (ABSOLUTE, (99, 99), Verdict.INCONCLUSIVE),
        (ABSOLUTE, (100, 10), Verdict.PASS),
        (ABSOLUTE, (100, 11), Verdict.INCONCLUSIVE),
        (ABSOLUTE, (100, 30), Verdict.FAIL),
    ],
)
def test_label_errors_without_a_control(
    spec: str, candidate: tuple[int, int], verdict: Verdict | None
) -> None:
    """Where nobody is left to compare with, an absolute limit judges, or nothing does."""
    view = msgspec.structs.replace(
        _view(Counts(committed=10)),
        candidate=LabelCounts(labelled=candidate[0], wrong=candidate[1]),
        control_devices=0,
    )
    assert _judge(view, spec=spec)[LABEL_ERRORS].verdict is verdict


def test_the_worst_verdict_wins() -> None:
    """FAIL over ERROR over INCONCLUSIVE over PASS; what does not apply has no say."""
    order = [Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.PASS, None]
    for place, verdict in enumerate(order):
        findings = [Finding(gate="g", verdict=each, sentence="") for each in order[place:]]
        assert worst(reversed(findings)) is (verdict or Verdict.PASS)
