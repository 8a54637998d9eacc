"""`shoal device`: invite, list, show, label devices, and take their access away."""

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
_SHOW = ("id", "access", "is_online", "seen", "labels", "agent_version", "inventory", "buffer")
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
    output.show_one({**found, "seen": _when(found["last_seen"]), "access": _access(found)}, _SHOW)
    print("\nfamilies")
    output.show(found["reported"], _REPORTED, empty="nothing reported yet")
    for family in found["reported"]:
        if family["waits_for"]:
            print(f"{family['family']} waits for {family['waits_for']}")
    if found["detected"]:
        print("\nrefused by the device")
        output.show(found["detected"], _DETECTED)
    if found["misconduct"]:
        print("\nrefused of what was done in its name")
        output.show(found["misconduct"], _DETECTED)


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


@app.command()
def revoke(device: Annotated[str, typer.Argument(help="Id of the device.")]) -> None:
    """End a device's access to broker and API; its live session ends within a minute.

    \b
    Example:
      shoal device revoke press-1
    """
    _shut_out(device, "revoke")


@app.command()
def retire(device: Annotated[str, typer.Argument(help="Id of the device.")]) -> None:
    """Take a device out of service; its access ends, its history stays.

    Its models stay on its disk: erase them there.

    \b
    Example:
      shoal device retire press-1
    """
    _shut_out(device, "retire")


@app.command(name="re-enrol")
def re_enrol(
    device: Annotated[str, typer.Argument(help="Id of the device.")],
    *,
    life_s: Annotated[float, typer.Option(help="How long the token lives, in seconds.")] = 86_400,
) -> None:
    """Make a token with which a known device is enrolled anew, also one that was revoked.

    \b
    Example:
      shoal device re-enrol press-1
    """
    with http.connect() as api:
        found = api.get(f"devices/{quote(device, safe='')}")
        made = api.post("enrolment-tokens", json={"device": device, "life_s": life_s})
    if output.is_json():
        output.show_json(made)
        return
    output.show_one(made, ("token", "server"))
    new_key = " --new-key" if found["revoked"] else ""
    output.note("On the device, with the server's certificate beside it:")
    output.note(
        f"  shoal-agent enrol --server {made['server']} --token {made['token']} "
        f"--ca ca.pem{new_key}"
    )


def _shut_out(device: str, how: str) -> None:
    with http.connect() as api:
        api.post(f"devices/{quote(device, safe='')}/{how}")
    output.note(f"{device}: its access ends now; let it in again with: shoal device re-enrol")


def _access(found: dict[str, Any]) -> str:
    if found["retired"]:
        return f"retired {_when(found['retired'])}"
    return f"revoked {_when(found['revoked'])}" if found["revoked"] else "yes"


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
