"""`shoal device`: invite, list, show and label devices."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from control_plane.cli import http, output
from firmware_bundles.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from control_plane.cli.http import Api

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_ROWS_PER_PAGE = 500
_LIST = ("id", "is_online", "serving", "labels", "agent_version")
_SHOW = ("id", "is_online", "seen", "labels", "agent_version", "inventory", "buffer")
_REPORTED = ("family", "state", "serving_version", "generation", "rollout_id", "fault_code")
_DETECTED = ("code", "count", "message")


@app.command()
def invite(
    *,
    device: Annotated[
        str | None, typer.Option(help="Only this device; it may be enrolled anew.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, as often as needed.")] = None,
    uses: Annotated[int, typer.Option(help="How many devices may use the token.")] = 1,
    life_s: Annotated[float, typer.Option(help="How long the token lives, in seconds.")] = 86_400,
    ca_out: Annotated[
        Path | None, typer.Option(help="Write the server's CA certificate to this file.")
    ] = None,
) -> None:
    """Make an enrolment token, and say what to run on the device.

    \b
    Example:
      shoal device invite --device press-1 --label site=berlin --ca-out ca.pem
    """
    wanted = {
        "device": device,
        "labels": _labels(label or []),
        "uses": uses,
        "life_s": life_s,
    }
    with http.connect() as api:
        made = api.post("enrolment-tokens", json=wanted)
    if ca_out is not None:
        ca_out.write_text(made["ca"])
    if output.is_json():
        output.show_json(made)
        return
    output.show_one(made, ("token", "server"))
    output.note("On the device, with the server's certificate beside it:")
    output.note(
        f"  shoal-agent enrol --server {made['server']} --token {made['token']} "
        f"--ca {ca_out or 'ca.pem'}"
    )
    if ca_out is None:
        output.note("  (--ca-out FILE writes that certificate)")


@app.command(name="list")
def list_(
    *,
    labels: Annotated[str, typer.Option(help="Only devices that this selector matches.")] = "",
    cohort: Annotated[str | None, typer.Option(help="Only devices of this cohort.")] = None,
) -> None:
    """List devices.

    \b
    Example:
      shoal device list --labels site=berlin
    """
    with http.connect() as api:
        output.show(list(_pages(api, labels, cohort)), _LIST)


@app.command()
def show(device: Annotated[str, typer.Argument(help="Id of the device.")]) -> None:
    """Show one device: what it said of itself, signed, and what it refused.

    \b
    Example:
      shoal device show press-1
    """
    with http.connect() as api:
        found = api.get(f"devices/{quote(device, safe='')}")
    if output.is_json():
        output.show_json(found)
        return
    output.show_one({**found, "seen": _when(found["last_seen"])}, _SHOW)
    print("\nfamilies")
    output.show(found["reported"], _REPORTED, empty="nothing reported yet")
    if found["detected"]:
        print("\nrefused by the device")
        output.show(found["detected"], _DETECTED)


@app.command()
def label(
    device: Annotated[str, typer.Argument(help="Id of the device.")],
    labels: Annotated[list[str], typer.Argument(help="KEY=VALUE sets, KEY- removes.")],
) -> None:
    """Set or remove labels.

    \b
    Example:
      shoal device label press-1 site=berlin line-
    """
    with http.connect() as api:
        changed = api.patch(f"devices/{quote(device, safe='')}", json={"labels": _changes(labels)})
    output.show_one(changed)


def _when(seconds: float | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%F %T} UTC"


def _pages(api: Api, labels: str, cohort: str | None) -> Iterator[dict[str, Any]]:
    after: str | None = None
    while True:
        page = api.get(
            "devices", labels=labels or None, cohort=cohort, after=after, limit=_ROWS_PER_PAGE
        )
        yield from page["devices"]
        after = page["next"]
        if after is None:
            return


def _labels(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"label {text!r:.80} is no KEY=VALUE")
        found[key] = value
    return found


def _changes(texts: Sequence[str]) -> dict[str, str | None]:
    removed: dict[str, str | None] = {
        text[:-1]: None for text in texts if text.endswith("-") and "=" not in text
    }
    return removed | _labels([text for text in texts if text[:-1] not in removed])
