"""`shoal telemetry`: what the fleet predicts, how right it is, how far its inputs have moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from control_plane.cli import assessments, http, output

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.cli.http import Json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command()(assessments.accuracy)
app.command()(assessments.fairness)

_DAY_S: Final = 86_400.0
Cohort = Annotated[str | None, typer.Option(help="Only this cohort's devices.")]


@app.command()
def predictions(*, cohort: Cohort = None) -> None:
    """Count predictions that devices answered and that were received from them.

    \b
    Example:
      shoal telemetry predictions --cohort berlin
    """
    with http.connect() as api:
        answer = api.get("telemetry/predictions", cohort=cohort)
    if output.is_json():
        output.show_json(answer)
    else:
        output.show(answer["devices"], _PREDICTIONS, empty="no predictions yet")


@app.command()
def drift(
    *,
    cohort: Cohort = None,
    family: Annotated[str | None, typer.Option(help="Only this family's models.")] = None,
    past_s: Annotated[float, typer.Option(help="Only windows of the last seconds.")] = _DAY_S,
    columns: Annotated[int, typer.Option(min=1, help="How many columns of each model.")] = 10,
) -> None:
    """Compare a cohort's windows with the signed baseline: the columns that differ most first.

    PSI and JS are effect sizes and mean nothing without their n; p is of this window alone. None of
    them is an alarm.

    \b
    Example:
      shoal telemetry drift --cohort berlin --family digits
    """
    with http.connect() as api:
        answer = api.get("telemetry/drift", cohort=cohort, family=family, past_s=f"{past_s:.0f}")
    if output.is_json():
        output.show_json(answer)
    else:
        rows = [row for model in answer for row in _largest(model, columns)]
        output.show(rows, _DRIFT, empty="no windows yet")


@app.command()
def latency(
    *,
    cohort: Cohort = None,
    family: Annotated[str | None, typer.Option(help="Only this family's models.")] = None,
    past_s: Annotated[float, typer.Option(help="What came in the last seconds.")] = _DAY_S,
    by: Annotated[str, typer.Option(help="arm, device, cohort or model.")] = "arm",
) -> None:
    """Show percentiles of the time that answers took, in microseconds, by model and arm.

    A percentile is known to a factor of 1.41; `--output json` gives its bounds.

    \b
    Example:
      shoal telemetry latency --family digits --by cohort
    """
    with http.connect() as api:
        answer = api.get(
            "telemetry/latency", cohort=cohort, family=family, past_s=f"{past_s:.0f}", by=by
        )
    output.show(answer, _LATENCY, empty="no predictions in this time")


@app.command()
def storage() -> None:
    """Count the segments that are stored, and what retention deleted.

    \b
    Example:
      shoal telemetry storage
    """
    with http.connect() as api:
        answer = api.get("telemetry/storage")
    if output.is_json():
        output.show_json(answer)
        return
    output.show(answer["stored"], ("kind", "segments", "rows"), empty="nothing is stored")
    if answer["deleted"]:
        output.show(answer["deleted"], ("what", "rows"))
    else:
        output.note("nothing was deleted yet")


def _largest(model: Json, count: int) -> list[Json]:
    ranked = sorted(model["columns"], key=lambda column: (column["p"], -column["psi"]))
    about = {"family": model["family"], "version": model["version"], "model": model["model"]}
    return [about | column for column in ranked[:count]]


def _short(value: object) -> str:
    return str(value)[:12]


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "-"


def _micros(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"


def _percentile(value: object) -> str:
    return _micros(value["us"]) if isinstance(value, dict) else "-"


def _enough(value: object) -> str:
    return "" if value else "too few rows"


_Columns = dict[str, "Callable[[object], str]"]
_PREDICTIONS: Final[_Columns] = {
    "device_id": _text,
    "family": _text,
    "version": _text,
    "model": _short,
    "answered": _text,
    "received": _text,
}
_LATENCY: Final[_Columns] = {
    "family": _text,
    "version": _text,
    "group": _text,
    "devices": _text,
    "answered": _text,
    "mean_us": _micros,
    "p50": _percentile,
    "p90": _percentile,
    "p99": _percentile,
}
_DRIFT: Final[_Columns] = {
    "family": _text,
    "version": _text,
    "name": _text,
    "kind": _text,
    "n": _text,
    "psi": _number,
    "js": _number,
    "ks": _number,
    "p": _number,
    "is_enough": _enough,
}
