"""`shoal telemetry accuracy|fairness`: how well models do, and how they treat segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from control_plane.cli import http, output
from firmware_bundles.sketches.fairness import ROWS_MIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.cli.http import Json

Cohort = Annotated[str | None, typer.Option(help="Only this cohort's devices.")]
Family = Annotated[str | None, typer.Option(help="Only this family's models.")]
Device = Annotated[str | None, typer.Option(help="Only this device.")]
Rollout = Annotated[str | None, typer.Option(help="Only this rollout's devices, by arm.")]
PastS = Annotated[float, typer.Option(min=0, help="Only what came in the last seconds; 0: all.")]
ByDevice = Annotated[bool, typer.Option("--by-device", help="One line for each device.")]


def accuracy(
    *,
    cohort: Cohort = None,
    family: Family = None,
    device: Device = None,
    rollout: Rollout = None,
    past_s: PastS = 0.0,
    by_device: ByDevice = False,
) -> None:
    """Say how right models are by the labels that came, and what they promise without.

    Intervals hold at every look. The estimate (CBPE) comes from confidences, and says nothing once
    inputs drift; only labels see that what is right has changed.

    \b
    Examples:
      shoal telemetry accuracy
      shoal telemetry accuracy --rollout better-4d5e6f
      shoal telemetry accuracy --cohort berlin --by-device --past-s 86400
    """
    with http.connect() as api:
        answer = api.get(
            "telemetry/accuracy",
            cohort=cohort,
            family=family,
            device=device,
            rollout=rollout,
            past_s=f"{past_s:.0f}",
            by_device=_said(by_device),
        )
    if output.is_json():
        output.show_json(answer)
        return
    models = answer["models"]
    output.show([_flat(each) for each in models], _chosen(_ACCURACY, models), empty="no labels yet")
    if segments := _parts(models, "segments", "segment"):
        print()
        output.show(segments, _chosen(_SEGMENTS, models))
    if values := _parts(models, "values", "value"):
        print()
        output.show(values, _chosen(_VALUES, models))
    if answer["pending"]:
        output.note(f"{answer['pending']} labels wait for their predictions")


def fairness(
    favourable: Annotated[
        str, typer.Argument(help="The class that people want to get.", show_default=False)
    ],
    *,
    cohort: Cohort = None,
    family: Family = None,
    device: Device = None,
    rollout: Rollout = None,
    past_s: PastS = 0.0,
    by_device: ByDevice = False,
    rows_min: Annotated[
        int, typer.Option(min=1, help="Segments with fewer rows are not compared.")
    ] = ROWS_MIN,
) -> None:
    """Compare how models treat the segments of the traffic that their baselines declare.

    Demographic parity compares how often the class is predicted; equal opportunity how often where
    it is right (true positives), equalised odds that and false positives. 0 is equal.

    \b
    Examples:
      shoal telemetry fairness granted --family credit
      shoal telemetry fairness granted --cohort berlin --rows-min 1000
    """
    with http.connect() as api:
        answer = api.get(
            "telemetry/fairness",
            favourable=favourable,
            cohort=cohort,
            family=family,
            device=device,
            rollout=rollout,
            past_s=f"{past_s:.0f}",
            by_device=_said(by_device),
            rows_min=str(rows_min),
        )
    if output.is_json():
        output.show_json(answer)
        return
    rows = [_about(model) | row for model in answer for row in _gaps(model)]
    output.show(rows, _chosen(_FAIRNESS, answer), empty="nothing to compare yet")


def _gaps(model: Json) -> list[Json]:
    return [
        model[name]
        | {"what": words}
        | {"segments": ", ".join(_rate(rate) for rate in model[name]["rates"])}
        | {"too_few": ", ".join(model[name]["suppressed"])}
        for name, words in _GAPS.items()
    ]


def _rate(rate: Json) -> str:
    return f"{rate['name']} {rate['share']:.1%} of {rate['n']}"


def _flat(model: Json) -> Json:
    estimate = model["estimate"]
    if estimate is None:
        return model | {"estimate": None, "inputs": None}
    inputs = "drifting: do not trust the estimate" if estimate["is_drifting"] else "as the baseline"
    return model | {"estimate": estimate["accuracy"], "inputs": inputs}


def _parts(models: list[Json], name: str, word: str) -> list[Json]:
    """Return the parts of all models, a line each, where there is more than the whole."""
    rows = [_about(model) | part | {word: part["name"]} for model in models for part in model[name]]
    return rows if name == "values" or len(rows) > len(models) else []


def _about(model: Json) -> Json:
    return {key: model[key] for key in ("family", "version", "model", "arm", "device_id")}


def _chosen(columns: _Columns, models: list[Json]) -> _Columns:
    """Leave out the columns that say nothing here."""
    unused = {name for name in ("arm", "device_id") if not any(each[name] for each in models)}
    return {name: words for name, words in columns.items() if name not in unused}


def _said(value: bool) -> str:  # noqa: FBT001 - a switch as the API reads it
    return "true" if value else "false"


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _short(value: object) -> str:
    return str(value)[:12]


def _percent(value: object) -> str:
    return f"{value:.2%}" if isinstance(value, int | float) else "-"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


_Columns = dict[str, "Callable[[object], str]"]
_ABOUT: Final[_Columns] = {
    "family": _text,
    "version": _text,
    "model": _short,
    "arm": _text,
    "device_id": _text,
}
_ACCURACY: Final[_Columns] = _ABOUT | {
    "devices": _text,
    "labelled": _text,
    "wrong": _text,
    "accuracy": _percent,
    "low": _percent,
    "high": _percent,
    "estimate": _percent,
    "inputs": _text,
}
_SEGMENTS: Final[_Columns] = _ABOUT | {
    "segment": _text,
    "n": _text,
    "share": _percent,
    "low": _percent,
    "high": _percent,
}
_VALUES: Final[_Columns] = _ABOUT | {
    "value": _text,
    "segment": _text,
    "n": _text,
    "mean": _number,
    "deviation": _number,
    "minimum": _number,
    "maximum": _number,
}
_FAIRNESS: Final[_Columns] = _ABOUT | {
    "what": _text,
    "difference": _percent,
    "low": _percent,
    "high": _percent,
    "segments": _text,
    "too_few": _text,
}
_GAPS: Final = {
    "demographic_parity": "demographic parity",
    "equal_opportunity": "equal opportunity",
    "false_positives": "false positives",
}
