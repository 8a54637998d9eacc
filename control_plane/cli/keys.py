"""`shoal keys`: the owners' keys and the root of trust."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import ceremonies, http, output, passphrase, rotation
from firmware_bundles.errors import Malformed, ShoalError
from firmware_bundles.trust import key_folder, keys, roles

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
KeyFolder = Annotated[Path, typer.Option("--keys", help="Folder that 'keys init' wrote.")]
_COLUMNS: Final[dict[str, Callable[[object], str]]] = {
    "role": str,
    "threshold": str,
    "keys": lambda value: (
        ", ".join(str(each)[:12] for each in value) if isinstance(value, list) else "-"
    ),
}

_ROTATED: Final[dict[str, Callable[[object], str]]] = {"rotated": str, "key": str}


@app.callback()
def about() -> None:
    """Make the owners' keys and lay the root of trust."""


@app.command("init")
def init_keys(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")],
    family: Annotated[list[str], typer.Option(help="A model family, may be repeated.")],
    targets_keys: Annotated[
        int, typer.Option(help="Keys for the list of families and directors.")
    ] = roles.TARGETS_KEYS,
    targets_threshold: Annotated[
        int, typer.Option(help="How many of them must sign it.")
    ] = roles.TARGETS_THRESHOLD,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Make the owners' keys and lay the root of trust at the control plane.

    Three root keys of which two must sign, three targets keys for the list of families of which two
    must sign, one key for each family; all encrypted with one passphrase (SHOAL_KEY_PASSPHRASE,
    --passphrase-file or a prompt). Move root and targets keys to places of their own afterwards.

    \b
    Examples:
      shoal keys init --out keys --family digits
      shoal keys init --out keys --family digits --targets-keys 1 --targets-threshold 1
    """
    secret = passphrase.read(passphrase_file, passphrase_text, is_new=True)
    with http.connect() as api:
        document = api.get("trust/online-keys")
        online = {role: keys.parse_public(document[role]) for role in _online_roles(document)}
        beginning = key_folder.create(
            out,
            families=family,
            online=online,
            passphrase=secret,
            now=time.time(),
            targets_keys=targets_keys,
            targets_threshold=targets_threshold,
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
        list[str],
        typer.Argument(
            help="NAME...: root-1, targets-2 and so on, root or targets for all of them, snapshot, "
            "timestamp, director, or a family.",
            show_default=False,
        ),
    ],
    *,
    folder: KeyFolder,
    key_id: Annotated[
        list[str] | None,
        typer.Option(help="Id, or its beginning, of a root or targets key whose file is lost."),
    ] = None,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Replace keys by new ones; the former ones end as soon as devices know.

    Two root keys sign what root names, the targets keys what families and directors are. All that
    is named changes at once. A lost key needs no file: the others replace it. After an interruption
    the same command goes on with the same new keys.

    \b
    Examples:
      shoal keys rotate digits --keys keys
      shoal keys rotate root-2 --keys keys
      shoal keys rotate snapshot timestamp --keys keys
    """
    secret = passphrase.read(passphrase_file, passphrase_text, is_new=False)
    with http.connect() as api:
        ids = rotation.rotate(api, folder, name, secret, lost=key_id or ())
    output.show([{"rotated": each, "key": ids[each]} for each in ids], _ROTATED, empty="-")


@app.command()
def renew(
    name: Annotated[
        list[str],
        typer.Argument(help="NAME...: root, targets, or a family.", show_default=False),
    ],
    *,
    folder: KeyFolder,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Sign roles again as they are, before they end: root after two years, the others after one.

    \b
    Example:
      shoal keys renew targets digits --keys keys
    """
    secret = passphrase.read(passphrase_file, passphrase_text, is_new=False)
    with http.connect() as api:
        rotation.renew(api, folder, name, secret)
    output.show_one({"renewed": name})


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
