"""`shoal token`: API tokens of people and programs; what each role may do stands in `api.auth`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from control_plane.cli import http, output

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_LIST = ("prefix", "name", "person", "role", "created")


class Role(StrEnum):
    """What a token allows; each role may do all that the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who gets it: a person or a program.")],
    *,
    role: Annotated[Role, typer.Option(help="What it allows.")] = Role.VIEWER,
    person: Annotated[
        str | None,
        typer.Option(help="Whose it is, for approvals: NAME, if nobody is named."),
    ] = None,
) -> None:
    """Make a token and print it: this once, for only its digest is kept.

    \b
    Examples:
      shoal token create ben --role approver
      shoal token create ben-laptop --person ben --role operator
    """
    wanted = {"name": name, "role": role.value, "person": person}
    with http.connect() as api:
        made = api.post("tokens", json=wanted)
    output.show_one(made, ("token", "prefix", "name", "person", "role"))
    if not output.is_json():
        output.note("Keep it now: it is not shown again. Use it as SHOAL_TOKEN, or with --token.")


@app.command(name="list")
def list_() -> None:
    """List all tokens, without their texts.

    \b
    Example:
      shoal token list
    """
    with http.connect() as api:
        found = api.get("tokens")["tokens"]
    shown = [{**each, "created": _when(each["created"])} for each in found]
    output.show(found if output.is_json() else shown, _LIST)


@app.command()
def revoke(
    prefix: Annotated[str, typer.Argument(help="Prefix of the token, as `list` shows it.")],
) -> None:
    """Withdraw a token, and the sessions that were opened with it.

    \b
    Example:
      shoal token revoke shoal_3f9a01c2d4
    """
    with http.connect() as api:
        api.delete(f"tokens/{quote(prefix, safe='')}")
    output.note(f"{prefix}: withdrawn")


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%F %T} UTC"
