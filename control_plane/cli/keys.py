"""`shoal keys`: the owners' keys and the root of trust."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import ceremonies, http, output, passphrase
from firmware_bundles.errors import Malformed, ShoalError
from firmware_bundles.trust import key_folder, keys

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
KeyFolder = Annotated[Path, typer.Option("--keys", help="Folder that 'keys init' wrote.")]
_COLUMNS: Final[dict[str, Callable[[object], str]]] = {
    "role": str,
    "threshold": str,
    "keys": lambda value: (
        ", ".join(str(each)[:12] for each in value) if isinstance(value, list) else "-"
    ),
}


@app.callback()
def about() -> None:
    """Make the owners' keys and lay the root of trust."""


@app.command("init")
def init_keys(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")],
    family: Annotated[list[str], typer.Option(help="A model family, may be repeated.")],
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Make the owners' keys and lay the root of trust at the control plane.

    Three root keys of which two must sign, one key for the list of families, one for each family;
    all encrypted with one passphrase (SHOAL_KEY_PASSPHRASE, --passphrase-file or a prompt). Move
    the root keys to places of their own afterwards.

    \b
    Example:
      shoal keys init --out keys --family digits
    """
    secret = passphrase.read(passphrase_file, passphrase_text, is_new=True)
    with http.connect() as api:
        document = api.get("trust/online-keys")
        online = {role: keys.parse_public(document[role]) for role in _online_roles(document)}
        beginning = key_folder.create(
            out, families=family, online=online, passphrase=secret, now=time.time()
        )
        try:
            _upload(api, beginning)
        except ShoalError as error:
            output.note(f"The keys are in {out}, but the control plane did not take them.")
            error.hint = error.hint or f"Try again: shoal keys upload --keys {out}."
            raise
    output.show_one({"keys": str(out), "families": list(family)})


@app.command()
def upload(
    *, folder: Annotated[Path, typer.Option("--keys", help="Folder that 'keys init' wrote.")]
) -> None:
    """Lay the root of trust again from a key folder, if 'keys init' was interrupted.

    \b
    Example:
      shoal keys upload --keys keys
    """
    beginning = key_folder.read_beginning(folder)
    with http.connect() as api:
        _upload(api, beginning)
    output.show_one({"keys": str(folder), "families": list(beginning.families)})


@app.command()
def show() -> None:
    """Show who may sign what: thresholds and key ids, as the control plane holds them.

    \b
    Example:
      shoal keys show
    """
    with http.connect() as api:
        rows = ceremonies.overview(api)
    output.show(rows, _COLUMNS, empty="no root of trust yet")


@app.command()
def rotate(
    name: Annotated[
        str,
        typer.Argument(
            help="root-1, root-2, root-3, targets, snapshot, timestamp, director, or a family.",
            show_default=False,
        ),
    ],
    *,
    folder: KeyFolder,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Replace a key by a new one; the former one ends as soon as devices know.

    Two root keys sign what root names, the targets key what families and directors are. After an
    interruption the same command goes on with the same new key.

    \b
    Examples:
      shoal keys rotate digits --keys keys
      shoal keys rotate timestamp --keys keys
    """
    secret = passphrase.read(passphrase_file, passphrase_text, is_new=False)
    with http.connect() as api:
        keyid = ceremonies.rotate(api, folder, name, secret)
    output.show_one({"rotated": name, "key": keyid})


@app.command("add-family")
def add_family(
    family: Annotated[str, typer.Argument(help="The new model family.", show_default=False)],
    *,
    folder: KeyFolder,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Add a model family with a key of its own.

    \b
    Example:
      shoal keys add-family audio --keys keys
    """
    secret = passphrase.read(passphrase_file, passphrase_text, is_new=False)
    with http.connect() as api:
        keyid = ceremonies.add_family(api, folder, family, secret)
    output.show_one({"family": family, "key": keyid})


@app.command("revoke-family")
def revoke_family(
    family: Annotated[str, typer.Argument(help="The model family.", show_default=False)],
    *,
    folder: KeyFolder,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Take all trust from a family: none of its releases may be installed any more.

    Models that run go on running. The name is not used again.

    \b
    Example:
      shoal keys revoke-family audio --keys keys
    """
    secret = passphrase.read(passphrase_file, passphrase_text, is_new=False)
    with http.connect() as api:
        ceremonies.revoke_family(api, folder, family, secret)
    output.show_one({"revoked": family})


def _online_roles(document: object) -> tuple[str, ...]:
    wanted = ("snapshot", "timestamp", "director")
    if not isinstance(document, dict) or any(role not in document for role in wanted):
        raise Malformed("the server's answer does not hold its three online keys")
    return wanted


def _upload(api: http.Api, beginning: key_folder.Beginning) -> None:
    api.post(
        "trust/bootstrap",
        json={
            "root": beginning.root.decode(),
            "targets": beginning.targets.decode(),
            "director_keys": beginning.director_keys.decode(),
            "families": {name: data.decode() for name, data in beginning.families.items()},
        },
    )
