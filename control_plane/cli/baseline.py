"""`shoal bundle baseline`: what normal is for a model, from data that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
import yaml

from control_plane.cli import output
from control_plane.cli.answering import Asked, with_scores
from firmware_bundles import baselining, durable, held_out
from firmware_bundles.errors import InputError
from firmware_bundles.held_out import Declared
from firmware_bundles.sketches import codec

_SETTINGS_BYTES_MAX: Final = 256 * 1024

Data = Annotated[
    list[Path],
    typer.Argument(help="Held-out data: .npz, .npy, .csv, .parquet.", show_default=False),
]
SettingsFile = Annotated[
    Path | None, typer.Option(help="YAML with any of these options, and more (see docs).")
]
Labels = Annotated[Path | None, typer.Option(help="Class names, one a line, in score order.")]
Inputs = Annotated[
    str | None, typer.Option(help="Arrays or columns that the model takes, comma-separated.")
]
Scores = Annotated[
    str | None, typer.Option(help="Array, or a column for each class, comma-separated.")
]
Model = Annotated[Path | None, typer.Option(help="The .tflite file: it is asked for the scores.")]
Activation = Annotated[
    str, typer.Option(help="What makes scores of its output: softmax or sigmoid.")
]
Training = Annotated[
    list[Path] | None, typer.Option(help="Data that it was trained on, to be told from these.")
]
Segment = Annotated[
    list[str] | None, typer.Option(help="A part of the traffic that is counted apart.")
]
BusinessValue = Annotated[
    list[str] | None, typer.Option(help="NAME=LARGEST of a business value that feedback brings.")
]


def baseline(
    data: Data,
    *,
    out: Annotated[Path | None, typer.Option(help="File to write; must not exist yet.")] = None,
    settings: SettingsFile = None,
    labels: Labels = None,
    inputs: Inputs = None,
    tensor: Annotated[str | None, typer.Option(help="Input tensor that columns make.")] = None,
    scores: Scores = None,
    truth: Annotated[str | None, typer.Option(help="Array or column of the true class.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of seconds: the order of rows.")] = None,
    model: Model = None,
    activation: Activation = "",
    training: Training = None,
    segment: Segment = None,
    value: BusinessValue = None,
    cycle_s: Annotated[float | None, typer.Option(help="Normal repeats after so long.")] = None,
    bins: Annotated[int | None, typer.Option(help="Bins of each histogram (10).")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Count every so manieth row; else from autocorrelation.")
    ] = None,
    window_rows: Annotated[int | None, typer.Option(help="Rows of a window (300).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it all, write nothing.")] = False,
) -> None:
    """Make a baseline from held-out data: bins, stride, calibration table, and what is declared.

    Each file is one stream in order of time. The stride is the distance from which rows are hardly
    correlated; with --time and --cycle-s what merely repeats is no correlation. Give the file to
    `shoal bundle build --baseline`: the release's signature covers it.

    \b
    Examples:
      shoal bundle baseline heldout.npz --scores probs --truth label --labels labels.txt \\
          --out baseline.msgpack
      shoal bundle baseline berlin.csv oslo.csv --scores p_no,p_yes --truth y --time t \\
          --cycle-s 86400 --labels labels.txt --segment night --value revenue=500 \\
          --training train.csv --dry-run
      shoal bundle baseline rows.parquet --model model.tflite --truth y --labels labels.txt \\
          --out baseline.msgpack
    """
    _check_out(out, is_needed=not dry_run)
    said = {
        "labels": None if labels is None else _lines(labels),
        "tensor": tensor,
        "inputs": _listed(inputs),
        "scores": None if model else _listed(scores),
        "truth": truth,
        "time": time,
        "bins": bins,
        "stride": stride,
        "window_rows": window_rows,
        "segments": segment,
        "values": _values(value),
        "cycle_s": cycle_s,
    }
    declared = parse(_read_settings(settings) | {k: v for k, v in said.items() if v is not None})
    asked = None if model is None else Asked(model, scores, activation)
    streams = [_told(path, _read(path, declared, asked)) for path in data]
    trained = [
        _told(path, held_out.read(path, declared, is_training=True)) for path in training or ()
    ]
    fitted = baselining.fit(streams, declared, trained)
    for warning in fitted.warnings:
        output.note(f"warning: {warning}")
    body = codec.encode_baseline(fitted.baseline)
    codec.parse_baseline(body)
    if out is not None and not dry_run:
        durable.write(out, body)
    output.show_one(_facts(fitted, len(body)) | {"out": None if dry_run else str(out)})


def parse(document: dict[str, Any]) -> Declared:
    """Return what was declared. Raises InputError, which says where it is wrong."""
    try:
        return msgspec.convert(document, Declared)
    except msgspec.ValidationError as error:
        raise InputError(f"the baseline's settings are wrong: {error}") from error


def read_settings(text: bytes) -> dict[str, Any]:
    """Return the document of a settings file. Raises InputError."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"the settings are no YAML: {error!s:.200}") from error
    if not isinstance(document, dict):
        raise InputError("the settings are no mapping of names to values")
    return document


def _read_settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    with path.open("rb") as file:
        text = file.read(_SETTINGS_BYTES_MAX + 1)
    if len(text) > _SETTINGS_BYTES_MAX:
        raise InputError(f"{path} has more than {_SETTINGS_BYTES_MAX} bytes")
    return read_settings(text)


def _check_out(out: Path | None, *, is_needed: bool) -> None:
    if out is None and is_needed:
        raise InputError("--out is missing", hint="Name the file to write, or add --dry-run.")
    if out is not None and out.exists():
        raise InputError(f"{out} exists already", hint="Name another file, or remove this one.")


def _read(path: Path, declared: Declared, asked: Asked | None) -> held_out.Rows:
    rows = held_out.read(path, declared, has_scores=asked is None)
    return rows if asked is None else with_scores(rows, asked, declared.labels)


def _told(path: Path, rows: held_out.Rows) -> held_out.Rows:
    output.note(f"{path}: {len(rows.scores):,} rows of {rows.features.shape[1]:,} features")
    return rows


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8") from error


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [each.strip() for each in text.split(",")]


def _values(pairs: list[str] | None) -> dict[str, float] | None:
    if not pairs:
        return None
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, largest = pair.partition("=")
        try:
            found[name] = float(largest)
        except ValueError as error:
            raise InputError(f"--value {pair!r:.80} is not NAME=LARGEST") from error
    return found


def _facts(fitted: baselining.Fitted, size: int) -> dict[str, object]:
    made = fitted.baseline
    return {
        "rows": made.rows,
        "features": made.features,
        "columns": len(made.columns),
        "stride": made.stride,
        "window_rows": made.window_rows,
        "classes": len(made.labels),
        "segments": [name for name in made.segments if name],
        "values": [each.name for each in made.declared],
        "cycle_s": made.cycle_s if isinstance(made.cycle_s, float) else None,
        "calibrated_accuracy": baselining.promised(made),
        "warnings": list(fitted.warnings),
        "bytes": size,
    }
