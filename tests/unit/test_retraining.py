"""A model is to be trained anew when a change persists and its answers are known to be worse."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from control_plane.alerts import retraining
from control_plane.alerts.decision import Kind
from control_plane.alerts.retraining import Case, Labels
from control_plane.cli.main import main
from control_plane.telemetry.standing import Standing, WatchKey, WatchRow
from firmware_bundles.sketches import baseline
from firmware_bundles.sketches.baseline import ColumnKind
from firmware_bundles.sketches.performance import LabelFree
from firmware_bundles.sketches.watch import Finding, State

FINDING = Finding("x[0]", ColumnKind.FEATURE, "shape", 1e6, 2)


def _facts(right: float) -> baseline.Baseline:
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 2_000)
    said = np.where(random.uniform(size=2_000) < right, truth, 1 - truth)
    scores = np.stack([1 - said * 0.8 - 0.1, said * 0.8 + 0.1], axis=1).astype(np.float32)
    rows = random.normal(size=(2_000, 1)).astype(np.float32)
    return baseline.make({"x": rows}, scores, ("no", "yes"), truth=truth)


FACTS = _facts(0.95)


def _row(device: str, rings: int = 3, state: State = State.CHANGED) -> WatchRow:
    standing = Standing(state=state, since=1_000.0, rings=rings, findings=(FINDING,))
    return WatchRow(WatchKey(device, "digits", "a" * 64), "2", standing)


def _case(labelled: int, wrong: int, estimate: float | None = None, rows: int = 2_000) -> Case:
    label_free = None if estimate is None else LabelFree(estimate, rows, is_drifting=True)
    return Case("digits", "a" * 64, "2", [_row("dev-1")], Labels(labelled, wrong), label_free)


def test_a_change_has_to_persist() -> None:
    """One ring may be a passing thing; a device that came back does not count."""
    rows = [_row("a", rings=1), _row("b", rings=3), _row("c", rings=9, state=State.STABLE)]
    assert [row.key.device_id for row in retraining.persisting(rows)] == ["b"]


def test_labels_that_show_it_worse_are_the_evidence() -> None:
    """The event names devices, features, both accuracies, and the command that writes samples."""
    found = retraining.trigger(_case(500, 150), FACTS)
    assert found is not None
    assert (found.kind, found.key) == (Kind.RETRAINING, f"retraining///digits/{'a' * 64}")
    assert found.details["evidence"] == "labels"
    assert found.details["labels"]["high"] < found.details["before"]["low"]
    assert found.details["drift"]["columns"] == "x[0]"
    assert found.details["label_free"] is None
    assert found.details["command"] == (
        "shoal samples export --family digits --version 2 --since 1000 --out samples.parquet"
    )


def test_two_models_of_a_family_are_two_matters() -> None:
    """While a rollout is under way both may need it: neither stands in the other's alert."""
    case = _case(500, 150)
    found = [retraining.trigger(each, FACTS) for each in (case, case._replace(model="b" * 64))]
    assert len({signal.key for signal in found if signal is not None}) == 2


def test_the_command_of_an_event_is_one_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A person, or a pipeline, types it as it stands: every option is known."""
    found = retraining.trigger(_case(500, 150), FACTS)
    assert found is not None
    _, *words = found.details["command"].split()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert "Parquet" in capsys.readouterr().out


def test_an_estimate_from_confidence_is_called_weak() -> None:
    """Without enough labels it may stand in, and says what it is."""
    found = retraining.trigger(_case(10, 2, estimate=0.7), FACTS)
    assert found is not None
    assert found.details["evidence"] == "label_free"
    assert "weak" in found.summary
    assert "labels would tell" in found.details["label_free"]["caution"]


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (_case(0, 0), "nothing is known of its answers"),
        (_case(500, 20, estimate=0.7), "labels show that it is as good as ever"),
        (_case(10, 2, estimate=0.96), "the estimate is no worse"),
        (_case(10, 2, estimate=0.7, rows=100), "the estimate is of too few rows"),
        (_case(500, 150)._replace(rows=[]), "nothing changed"),
    ],
)
def test_without_both_there_is_no_reason(case: Case, why: str) -> None:
    """Drift alone, or worse answers alone, trains nothing."""
    assert retraining.trigger(case, FACTS) is None, why


def test_a_baseline_without_accuracy_cannot_be_compared_with() -> None:
    """What was never measured is not assumed."""
    bare: Any = msgspec.structs.replace(FACTS, right=msgspec.UNSET)
    assert retraining.trigger(_case(500, 250), bare) is None
