"""`shoal webhook`: who is told of alerts."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

import typer

from control_plane.cli import http, output

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_EXIT_LATER: Final = 4
_COLUMNS: Final = ("name", "url", "kinds", "waiting", "delivered", "dead", "last_error")

Name = Annotated[str, typer.Argument(help="The webhook's name.")]


@app.command()
def add(
    name: Name,
    url: Annotated[str, typer.Argument(help="https, or http to this machine.")],
    *,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only alerts of this kind; again for more.")
    ] = None,
) -> None:
    """Tell somebody of alerts: each becomes a signed CloudEvent, sent until it is taken.

    The secret that the events are signed with is told only now.

    \b
    Example:
      shoal webhook add pager https://pager.example/shoal
      shoal webhook add train https://ci.example/hook --kind retraining
    """
    with http.connect() as api:
        made = api.post("webhooks", json={"name": name, "url": url, "kinds": kind or []})
    output.show_one(made, ("name", "url", "kinds", "secret"))


@app.command(name="list")
def list_() -> None:
    """List webhooks: how much waits for each, was delivered, or is dead.

    \b
    Example:
      shoal webhook list
    """
    with http.connect() as api:
        output.show(api.get("webhooks")["webhooks"], _COLUMNS, empty="nobody is told of alerts")


@app.command()
def remove(name: Name) -> None:
    """Forget a webhook, and what waits for it.

    \b
    Example:
      shoal webhook remove pager
    """
    with http.connect() as api:
        api.delete(f"webhooks/{quote(name, safe='')}")
    output.note(f"{name} is told nothing any more")


@app.command()
def test(name: Name) -> None:
    """Send one event now, and say whether it arrived; ends with 4 if it did not.

    \b
    Example:
      shoal webhook test pager
    """
    with http.connect() as api:
        answer = api.post(f"webhooks/{quote(name, safe='')}/test")
    if output.is_json():
        output.show_json(answer)
    else:
        output.note(
            f"{'delivered' if answer['delivered'] else 'not delivered'}: {answer['reason']}"
        )
    if not answer["delivered"]:
        raise typer.Exit(_EXIT_LATER)
