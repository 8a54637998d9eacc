"""How devices stand, in words: the tables of `shoal telemetry drift` and `devices`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from control_plane.cli import http, output

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.cli.http import Json

_DAY_S: Final = 86_400.0
_NAMED_MAX: Final = 4
_RANKS: Final = ("changed", "commissioning", "inconclusive", "stable")

Cohort = Annotated[str | None, typer.Option(help="Only this cohort's devices.")]
Family = Annotated[str | None, typer.Option(help="Only this family's models.")]
PastS = Annotated[float, typer.Option(help="Only windows of the last seconds.")]


def drift(
    *,
    cohort: Cohort = None,
    family: Family = None,
    past_s: PastS = _DAY_S,
    columns: Annotated[int, typer.Option(min=1, help="How many columns of each model.")] = 5,
) -> None:
    """Say which devices changed and in what, and how far a cohort is from the signed baseline.

    Change is asked of a device against its own reference, and rings. Skew, against the
    baseline, is an effect size with its 95 % interval and never an alarm; PSI and JS mean nothing
    without their n.

    \b
    Example:
      shoal telemetry drift --cohort berlin --family digits
    """
    with http.connect() as api:
        answer = api.get("telemetry/drift", cohort=cohort, family=family, past_s=f"{past_s:.0f}")
    if output.is_json():
        output.show_json(answer)
        return
    standing = [each for model in answer for each in model["devices"]]
    standing.sort(key=lambda each: (_RANKS.index(each["state"]), each["device_id"]))
    output.show([_said(each) for each in standing], _DEVICES, empty="no device is watched yet")
    if answer:
        print()
    rows = [row for model in answer for row in _largest(model, columns)]
    output.show(rows, _SKEW, empty="no windows yet")


def devices(
    *,
    cohort: Cohort = None,
    family: Family = None,
    device: Annotated[str | None, typer.Option(help="Only this device, with more columns.")] = None,
    past_s: PastS = _DAY_S,
    columns: Annotated[int, typer.Option(min=1, help="How many columns of each device.")] = 3,
) -> None:
    """Compare each device with the rest of its fleet: the columns that differ most first.

    The shift is in standard deviations of the other devices, with its 95 % interval.

    \b
    Example:
      shoal telemetry devices --cohort berlin
      shoal telemetry devices --device cam-7 --columns 20
    """
    with http.connect() as api:
        answer = api.get(
            "telemetry/devices", cohort=cohort, family=family, device=device,
            past_s=f"{past_s:.0f}",
        )  # fmt: skip
    if output.is_json():
        output.show_json(answer)
        return
    ranked = sorted(answer, key=lambda each: -each["largest"])
    rows = [row for each in ranked for row in _columns_of(each, columns)]
    output.show(rows, _BESIDE, empty="no windows yet")


def _said(device: Json) -> Json:
    names = list(dict.fromkeys(each["column"] for each in device["features"]))
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return device | {"changed in": ", ".join(names[:_NAMED_MAX]) + more}


def _largest(model: Json, count: int) -> list[Json]:
    ranked = sorted(model["columns"], key=lambda column: (-column["excess_low"], -column["psi"]))
    about = {"family": model["family"], "version": model["version"]}
    return [about | column | {"95 %": _interval(column)} for column in ranked[:count]]


def _columns_of(device: Json, count: int) -> list[Json]:
    state = device["change"]["state"] if device["change"] else None
    about = {"device": device["device_id"], "version": device["version"], "state": state}
    return [about | each | {"95 %": _interval(each)} for each in device["columns"][:count]]


def _interval(column: Json) -> str:
    if column["shift_low"] is None:
        return "-"
    return f"{column['shift_low']:.2f} to {column['shift_high']:.2f}"


def _text(value: object) -> str:
    return "-" if value in (None, "") else str(value)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "-"


def _shift(value: object) -> str:
    return f"{value:+.2f} sd" if isinstance(value, int | float) else "-"


def _time(value: object) -> str:
    if not isinstance(value, int | float) or value <= 0:
        return "-"
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


_Columns = dict[str, "Callable[[object], str]"]
_DEVICES: Final[_Columns] = {
    "device_id": _text,
    "family": _text,
    "version": _text,
    "state": _text,
    "since": _time,
    "changed in": _text,
    "rings": _text,
    "tested": _text,
    "reference_rows": _text,
}
_SKEW: Final[_Columns] = {
    "family": _text,
    "version": _text,
    "name": _text,
    "kind": _text,
    "n": _text,
    "shift": _shift,
    "95 %": _text,
    "psi": _number,
    "js": _number,
}
_BESIDE: Final[_Columns] = {
    "device": _text,
    "version": _text,
    "state": _text,
    "column": _text,
    "n": _text,
    "fleet_n": _text,
    "shift": _shift,
    "95 %": _text,
    "js": _number,
}
