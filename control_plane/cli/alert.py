"""`shoal alert`: what is the matter with the fleet, and who took notice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlencode

import typer

from control_plane.cli import http, output

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Number = Annotated[int, typer.Argument(help="The alert's number, as `shoal alert list` shows it.")]


@app.command(name="list")
def list_(
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(help="open, acknowledged or resolved; again for more. Else what is not over."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, for instance change.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
) -> None:
    """List alerts, the newest first.

    \b
    Example:
      shoal alert list
      shoal alert list --state resolved --kind change
    """
    asked = {"state": state, "kind": kind, "device": device, "limit": limit}
    given = {name: value for name, value in asked.items() if value is not None}
    with http.connect() as api:
        answer = api.get(f"alerts?{urlencode(given, doseq=True)}")
    if output.is_json():
        output.show_json(answer)
    else:
        output.show(answer["alerts"], _COLUMNS, empty="nothing is the matter")


@app.command()
def show(number: Number) -> None:
    """Show one alert with its evidence.

    \b
    Example:
      shoal alert show 12
    """
    with http.connect() as api:
        answer = api.get(f"alerts/{number}")
    if output.is_json():
        output.show_json(answer)
        return
    details = answer.pop("details")
    output.show_one({name: _moment(name, value) for name, value in answer.items()})
    print()
    output.show_json(details)


@app.command()
def acknowledge(
    number: Number,
    *,
    note: Annotated[str, typer.Option(help="What you found, or will do.")] = "",
) -> None:
    """Take notice of an alert in the name of your token: nobody is reminded of it any more.

    \b
    Example:
      shoal alert acknowledge 12 --note "the lamp over line 3 failed"
    """
    with http.connect() as api:
        answer = api.post(f"alerts/{number}/acknowledge", json={"note": note})
    if output.is_json():
        output.show_json(answer)
    else:
        output.note(f"alert {number} is acknowledged by {answer['acknowledged_by']}")


def _moment(name: str, value: object) -> object:
    is_time = name in {"raised", "seen", "acknowledged", "resolved"}
    return _time(value) if is_time else value


def _time(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _text(value: object) -> str:
    return "-" if value is None else str(value)


_COLUMNS: Final[dict[str, Callable[[object], str]]] = {
    "alert": _text,
    "kind": _text,
    "state": _text,
    "raised": _time,
    "acknowledged_by": _text,
    "summary": _text,
}
