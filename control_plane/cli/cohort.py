"""`shoal cohort`: name sets of devices by their labels and facts, or by their ids."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from control_plane.cli import http, output

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_LIST: Final = ("name", "selector", "listed", "devices")
_ONE: Final = ("name", "selector", "listed", "devices")
_LISTED_SHOWN_MAX: Final = 3

Name = Annotated[str, typer.Argument(help="Name of the cohort.")]
Selector = Annotated[
    str,
    typer.Option(
        help="For instance 'site=berlin,fact/memory_bytes>1000000000'; empty takes all devices."
    ),
]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help="A device of a list, in place of a selector; may be repeated."),
]


@app.command()
def create(name: Name, *, selector: Selector = "", device: Devices = None) -> None:
    """Name a selector, whose cohort follows the labels and facts from then on, or a list.

    A selector names labels, and what devices report: fact/NAME of the inventory, serves/FAMILY,
    delegate/FAMILY.

    \b
    Examples:
      shoal cohort create berlin --selector site=berlin
      shoal cohort create big --selector 'fact/arch=aarch64,fact/memory_bytes>2000000000'
      shoal cohort create lab --device press-1 --device press-2
    """
    wanted = {"name": name, "selector": selector, "listed": device}
    with http.connect() as api:
        _show(api.post("cohorts", json=wanted))


@app.command(name="list")
def list_() -> None:
    """List all cohorts, with the number of devices in each now.

    \b
    Example:
      shoal cohort list
    """
    with http.connect() as api:
        found = api.get("cohorts")["cohorts"]
    output.show(found if output.is_json() else [_short(each) for each in found], _LIST)


@app.command()
def show(name: Name) -> None:
    """Show one cohort, with the number of its devices now.

    \b
    Example:
      shoal cohort show berlin
    """
    with http.connect() as api:
        _show(api.get(_path(name)))


@app.command()
def preview(
    selector: Annotated[str, typer.Argument(help="A selector, as for `create`.")] = "",
) -> None:
    """Count the devices that a selector matches now, without naming it, and name some.

    \b
    Example:
      shoal cohort preview 'site=berlin,serves/digits!=2'
    """
    with http.connect() as api:
        found = api.post("cohorts/match", selector=selector)
    output.show_one(found, ("devices", "examples"))


@app.command()
def delete(name: Name) -> None:
    """Forget a cohort that no open rollout goes by. Its devices stay as they are.

    \b
    Example:
      shoal cohort delete berlin
    """
    with http.connect() as api:
        api.delete(_path(name))
    output.note(f"{name}: deleted")


def _show(document: dict[str, Any]) -> None:
    output.show_one(document if output.is_json() else _short(document), _ONE)


def _short(document: dict[str, Any]) -> dict[str, Any]:
    """Return a cohort with no more of its list than a line takes."""
    listed = document["listed"] or []
    more = (
        [f"and {len(listed) - _LISTED_SHOWN_MAX} more"] if len(listed) > _LISTED_SHOWN_MAX else []
    )
    return {**document, "listed": [*listed[:_LISTED_SHOWN_MAX], *more]}


def _path(name: str) -> str:
    return f"cohorts/{quote(name, safe='')}"
