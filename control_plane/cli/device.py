"""`shoal device`: invite, list, show, label devices, and take their access away."""

from __future__ import annotations

import time
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
_DAY_S = 86_400.0
_LIST = ("id", "access", "certificate", "is_online", "serving", "labels", "agent_version")
_SHOW = (
    "id", "access", "certificate", "is_online", "seen", "labels", "agent_version", "inventory",
    "buffer",
)  # fmt: skip
_REPORTED = (
    "family", "state", "serving_version", "generation", "rollout_id", "fault_code", "patch_bytes",
    "chunk_bytes",
)  # fmt: skip
_UNKNOWN = ("id", "hellos")
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
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Those that say hello and are not enrolled here.")
    ] = False,
) -> None:
    """List devices.

    After a restore, --unknown lists those that were enrolled since the backup: they are refused
    until they are invited by name and enrolled again.

    \b
    Examples:
      shoal device list --labels site=berlin
      shoal device list --unknown
    """
    with http.connect() as api:
        if unknown:
            output.show(api.get("strangers")["strangers"], _UNKNOWN)
            return
        found = list(_pages(api, labels, cohort))
    output.show(found if output.is_json() else [_worded(each) for each in found], _LIST)


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
    output.show_one({**_worded(found), "seen": _when(found["last_seen"])}, _SHOW)
    print("\nfamilies")
    output.show(found["reported"], _REPORTED, empty="nothing reported yet")
    for family in found["reported"]:
        if family["waits_for"]:
            print(f"{family['family']} waits for {family['waits_for']}")
        if family["delegate_reason"]:
            print(f"{family['family']} on {family['delegate']}: {family['delegate_reason']}")
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
    with http.connect() as api:
        api.post(f"devices/{quote(device, safe='')}/revoke")
    output.note(f"{device}: its access ends now; let it in again with: shoal device re-enrol")


@app.command()
def retire(
    device: Annotated[str, typer.Argument(help="Id of the device.")],
    *,
    now: Annotated[
        bool, typer.Option("--now", help="End its access now; it is not told to erase anything.")
    ] = False,
    wait_days: Annotated[
        float, typer.Option(help="How long it may take until its access ends, in days.")
    ] = 30.0,
) -> None:
    """Take a device out of service: it erases its models, its access ends, its history stays.

    The device stops serving, erases models and predictions, and says so; then its access ends, and
    it erases its identity. One that is offline is told when it comes back. One that never does
    keeps what is on its disk: after --wait-days its access ends all the same.

    \b
    Examples:
      shoal device retire press-1
      shoal device retire press-1 --now
    """
    wait_s = 0.0 if now else wait_days * _DAY_S
    with http.connect() as api:
        found = api.post(f"devices/{quote(device, safe='')}/retire", json={"wait_s": wait_s})
    if output.is_json():
        output.show_json(found)
    elif found["retired"]:
        output.note(f"{device}: its access ends now; what lies on its disk stays there")
    else:
        output.note(f"{device}: it is told to erase what it holds, until {_at(found)}")
        output.note(f"  follow it with: shoal device show {device}")


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


def _worded(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "access": _access(found), "certificate": _certificate(found)}


def _access(found: dict[str, Any]) -> str:
    """Word how a device stands, with the time of the step that it reached last."""
    erased = f", erased {_when(found['erased'])}" if found["erased"] else ""
    if lost := found["segments_erased"]:
        erased += f" ({lost} {'segment' if lost == 1 else 'segments'} not delivered)"
    match found["access"]:
        case "retired":
            return f"retired {_when(found['retired'])}{erased or ', erasure not confirmed'}"
        case "retiring":
            return f"retiring{erased or f', until {_at(found)}'}"
        case "revoked":
            return f"revoked {_when(found['revoked'])}"
        case access:
            return str(access)


def _certificate(found: dict[str, Any]) -> str:
    ends = found["certificate_ends"]
    if ends is None or found["revoked"]:
        return "-"
    left_s = ends - time.time()
    if left_s <= 0:
        return f"ended {_when(ends)}"
    return f"ends in {left_s / _DAY_S:.0f} d" if left_s > _DAY_S else f"ends {_when(ends)}"


def _at(found: dict[str, Any]) -> str:
    return _when(found["retire_until"])


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
