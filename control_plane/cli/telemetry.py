"""`shoal telemetry`: what the fleet predicts, how right it is, how far its inputs have moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from control_plane.cli import assessments, drift, http, output

if TYPE_CHECKING:
    from collections.abc import Callable


app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command()(assessments.accuracy)
app.command()(assessments.fairness)
app.command()(drift.drift)
app.command()(drift.devices)

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


@app.command()
def recommission(
    device: Annotated[str, typer.Argument(help="The device whose normal is learnt anew.")],
    *,
    family: Annotated[str, typer.Option(help="For the models of this family.")],
) -> None:
    """Forget what was normal at a device: its surroundings changed for good.

    Its windows from now on are its reference; until that is complete nothing rings.

    \b
    Example:
      shoal telemetry recommission cam-7 --family digits
    """
    with http.connect() as api:
        answer = api.post("telemetry/recommission", json={"device": device, "family": family})
    if output.is_json():
        output.show_json(answer)
    else:
        output.note(f"{device} is commissioned anew for {family}")


def _short(value: object) -> str:
    return str(value)[:12]


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _micros(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"


def _percentile(value: object) -> str:
    return _micros(value["us"]) if isinstance(value, dict) else "-"


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
