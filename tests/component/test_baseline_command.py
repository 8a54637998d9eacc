"""`shoal bundle baseline` from the files that owners have."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control_plane.cli.main import main
from firmware_bundles.sketches.codec import parse_baseline
from firmware_bundles.sketches.performance import calibration
from support.bundles import SAMPLES

HELD_OUT = SAMPLES / "v2" / "heldout.npz"
OF_DIGITS = ("--scores", "probs", "--inputs", "image", "--truth", "label")


def run(
    capsys: pytest.CaptureFixture[str], *words: object, status: int = 0
) -> tuple[dict[str, Any], str]:
    """Run the command; return its document and its remarks."""
    with pytest.raises(SystemExit) as ended:
        main(["--output", "json", "bundle", "baseline", *map(str, words)])
    out, remarks = capsys.readouterr()
    assert (ended.value.code or 0) == status, remarks
    return json.loads(out) if out else {}, remarks


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """The names of the digits."""
    path = tmp_path / "labels.txt"
    path.write_text("\n".join("0123456789"))
    return path


def table(path: Path, rows: int = 400, seed: int = 1) -> Path:
    """A CSV of two classes, with a missing value."""
    rng = np.random.default_rng(seed)
    age, income, yes = rng.normal(40, 9, rows), rng.lognormal(8, 1, rows), rng.uniform(size=rows)
    lines = ["t,age,income,p_no,p_yes,truth"]
    for at in range(rows):
        true = "yes" if rng.uniform() < yes[at] else "no"
        shown = "" if at == 3 else f"{age[at]:.3f}"
        share = f"{1 - yes[at]:.4f},{yes[at]:.4f}"
        lines.append(f"{1000 - at},{shown},{income[at]:.2f},{share},{true}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_arrays_become_a_baseline_with_its_calibration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, labels: Path
) -> None:
    """Edges, counts and the calibration table come from the rows; what is declared is in it."""
    out = tmp_path / "baseline.msgpack"
    declared = ("--segment", "night", "--segment", "day", "--value", "revenue=500")
    words = (HELD_OUT, *OF_DIGITS, "--labels", labels, "--out", out, "--cycle-s", 86400, *declared)
    told, remarks = run(capsys, *words)
    made = parse_baseline(out.read_bytes())
    with np.load(HELD_OUT) as arrays:
        right = float((arrays["probs"].argmax(axis=1) == arrays["label"]).mean())
        assert made.rows == told["rows"] == len(arrays["label"])
    assert made.labels == tuple("0123456789")
    assert made.segments == ("", "night", "day")
    assert (made.cycle_s, made.declared[0].name, made.declared[0].scale) == (86400, "revenue", 64)
    assert calibration(made) is not None
    assert told["calibrated_accuracy"] == pytest.approx(right, abs=0.01)
    assert (told["stride"], told["window_rows"]) == (made.stride, 300)
    assert "are few" in remarks
    again, _ = run(capsys, *words, status=2)
    assert again == {}


def test_the_model_is_asked_for_scores(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, labels: Path
) -> None:
    """What devices will answer is what the baseline counts, and gives the same as given scores."""
    out, other = tmp_path / "asked", tmp_path / "given"
    with np.load(HELD_OUT) as arrays:
        np.savez(tmp_path / "bare.npz", image=arrays["image"], label=arrays["label"])
    model = ("--model", SAMPLES / "v2" / "model.tflite", "--labels", labels, "--truth", "label")
    run(capsys, tmp_path / "bare.npz", *model, "--out", out)
    run(capsys, HELD_OUT, *OF_DIGITS, "--labels", labels, "--out", other)
    asked, given = (parse_baseline(path.read_bytes()) for path in (out, other))
    assert asked.columns[-1].counts == given.columns[-1].counts
    assert asked.right == given.right
    _, remarks = run(capsys, HELD_OUT, *model, "--scores", "logits", "--dry-run", status=2)
    assert "the model has the outputs ['probs']" in remarks


def test_tables_become_a_baseline_by_their_columns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Names of columns stay, rows are ordered by time, missing values counted; YAML declares it."""
    one, other = table(tmp_path / "one.csv"), table(tmp_path / "two.csv", seed=2)
    settings = tmp_path / "baseline.yaml"
    settings.write_text(
        "labels: ['no', 'yes']\nscores: [p_no, p_yes]\ntruth: truth\ntime: t\n"
        "largest: {income: 1000000}\nbins: 5\n"
    )
    out = tmp_path / "baseline.msgpack"
    told, _ = run(capsys, one, other, "--settings", settings, "--out", out)
    made = parse_baseline(out.read_bytes())
    assert [column.name for column in made.columns][:2] == ["age", "income"]
    assert (made.rows, made.columns[0].counts[0], told["stride"]) == (800, 2, 1)
    assert made.columns[1].scale == 2.0**-5
    assert len(made.columns[0].edges) == 6


def test_rows_of_the_training_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Held-out rows that the model was trained on are counted, and nothing is written."""
    data = table(tmp_path / "data.csv")
    seen = tmp_path / "seen.csv"
    lines = data.read_text().splitlines()
    seen.write_text("\n".join(lines[:1] + lines[11:61]))
    words = ("--inputs", "age,income", "--stride", 4, "--training", seen, "--dry-run")
    told, remarks = run(capsys, data, *words)
    assert "50 of 400 rows are in the training data" in remarks
    assert (told["out"], told["stride"], told["classes"]) == (None, 4, 0)
    assert any("100 of them 4 apart" in each for each in told["warnings"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "seen.csv"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--inputs", "height"), "no column or array 'height'"),
        (("--inputs", "truth"), "'truth' of"),
        (("--inputs", "age", "--segment", ""), "the baseline's settings are wrong"),
        (("--inputs", "age", "--value", "revenue"), "is not NAME=LARGEST"),
        (("--inputs", "age", "--bins", "1"), "the baseline's settings are wrong"),
        ((), "holds no real numbers"),
    ],
)
def test_what_cannot_be_a_baseline_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    """Each refusal names what is wrong."""
    _, remarks = run(capsys, table(tmp_path / "data.csv"), *words, "--dry-run", status=2)
    assert sentence in remarks


def test_parquet_asks_for_its_extra(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pyarrow is not installed, the refusal says what to install, and what else to do."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1")
    _, remarks = run(capsys, path, "--dry-run", status=2)
    assert "pyarrow is not installed" in remarks
    assert "shoal[parquet]" in remarks
