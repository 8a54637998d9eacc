"""`shoal broker`: how the broker stands, and the files of one that somebody else runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control_plane.cli import http, output
from firmware_bundles import durable
from firmware_bundles.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_KEY = "server.key"
_CERTIFICATE = "server.pem"


@app.command()
def show() -> None:
    """Show the broker: connection, retained chunks, what is left to HTTPS, the list of revoked.

    \b
    Example:
      shoal broker show
    """
    with http.connect() as api:
        found = api.get("broker")
    if output.is_json():
        output.show_json(found)
        return
    output.show_one(_worded(found))
    if found["list_is_late"]:
        output.note(
            "alarm: the list of revoked certificates is not renewed; when it ends, every device "
            "is shut out. Read the log of the control plane."
        )


@app.command()
def config(
    *,
    host: Annotated[str, typer.Option(help="Address that it listens on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(help="Port that it listens on.")] = 8883,
    out: Annotated[Path | None, typer.Option(help="Write the files to this folder.")] = None,
) -> None:
    """Print the configuration and access rules for an external mosquitto, and those for others.

    Beside them it needs a certificate of this fleet: shoal broker certificate. The list of revoked
    certificates (crl.pem) ends after a month, and then shuts every device out: write the files
    anew daily, and after each revocation, and let mosquitto read them (SIGHUP).

    \b
    Example:
      shoal broker config --port 8883 --out /etc/mosquitto/shoal
    """
    with http.connect() as api:
        found = api.get("broker/config", host=host, port=port)
    if output.is_json():
        output.show_json(found)
        return
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for name, text in found["files"].items():
        if out is None:
            print(f"# ---- {name}\n{text}")
        else:
            durable.write(out / name, text.encode())
            output.note(f"wrote {out / name}")
    print("# Any other broker must keep these rules:")
    for rule in found["rules"]:
        print(f"# - {rule}")


@app.command()
def certificate(
    *,
    name: Annotated[list[str], typer.Option(help="A name or address that devices use.")],
    out: Annotated[Path, typer.Option(help="Folder for server.pem and server.key.")],
) -> None:
    """Make key and certificate of an external broker; the key never leaves this machine.

    Devices trust no other authority than this fleet's. A key that is there is certified anew.

    \b
    Example:
      shoal broker certificate --name broker.example --out /etc/mosquitto/shoal
    """
    from control_plane.fleet import certificates

    out.mkdir(parents=True, exist_ok=True)
    request = certificates.signing_request(_key(out / _KEY), name[0])
    with http.connect() as api:
        made = api.post("broker/certificate", json={"csr": request.decode(), "names": name})
    durable.write(out / _CERTIFICATE, made["certificate"].encode())
    output.note(f"wrote {out / _CERTIFICATE} and {out / _KEY}")


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key in a file, made if there is none. Raises InputError, OSError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from control_plane.fleet import certificates

    if not path.exists():
        durable.write(
            path, certificates.key_pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600
        )
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path} holds no P-256 key", hint="Move it away: a new one is made.")
    return key


def _worded(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": found["name"],
        "url": found["url"],
        "connected": found["is_connected"],
        "retained": f"{_megabytes(found['retained_bytes'])} in {found['retained_chunks']} chunks, "
        f"of {_megabytes(found['retained_bytes_max'])} at most",
        "left to HTTPS": f"{_megabytes(found['left_out_bytes'])} in {found['left_out_chunks']} "
        "chunks",
        "list of revoked": f"given {_when(found['list_given'])}, ends {_when(found['list_ends'])}"
        + (", LATE" if found["list_is_late"] else ""),
        "refused": found["refused"],
        "dropped": found["dropped"],
    }


def _megabytes(count: int) -> str:
    return f"{count / 1024**2:.1f} MiB"


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%F %T} UTC"
