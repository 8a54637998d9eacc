"""`shoal cohort`: name sets of devices by their labels."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from control_plane.cli import http, output

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_COLUMNS = ("name", "selector", "devices")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the cohort.")],
    selector: Annotated[
        str, typer.Option(help="For instance 'site=berlin,line in (a, b)'; empty takes all.")
    ] = "",
) -> None:
    """Name a selector; who belongs to the cohort follows the labels from then on.

    \b
    Example:
      shoal cohort create berlin --selector site=berlin
    """
    with http.connect() as api:
        output.show_one(api.post("cohorts", json={"name": name, "selector": selector}), _COLUMNS)


@app.command(name="list")
def list_() -> None:
    """List all cohorts, with the number of devices in each now.

    \b
    Example:
      shoal cohort list
    """
    with http.connect() as api:
        output.show(api.get("cohorts")["cohorts"], _COLUMNS)


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name of the cohort.")]) -> None:
    """Show one cohort.

    \b
    Example:
      shoal cohort show berlin
    """
    with http.connect() as api:
        output.show_one(api.get(f"cohorts/{quote(name, safe='')}"), _COLUMNS)
