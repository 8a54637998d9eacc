"""`shoal backup`: all of a control plane in one encrypted file, and a look into such a file.

What it holds and how it is taken stands in `control_plane.backup`. A local act of the service's
user: private keys never cross the network, whatever token is shown.
"""

from __future__ import annotations

import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from control_plane import config as settings
from control_plane.backup import restoring, taking
from control_plane.cli import output, passphrase
from control_plane.cli.progress import Meter
from firmware_bundles.errors import InputError

if TYPE_CHECKING:
    from control_plane.backup.records import Description

app = typer.Typer(rich_markup_mode=None)
SUFFIX: Final = "backup"
BackupFile = Annotated[Path, typer.Argument(help="The backup.", show_default=False)]


@app.callback(invoke_without_command=True)
def backup(
    context: typer.Context,
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="The control plane's folder; else as 'shoal serve' takes it."),
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="URL of its database, if not as it last ran.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write, or a folder; a file gets a dated name.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and count, write nothing.")
    ] = False,
    passphrase_file: passphrase.BackupPassphraseFile = None,
    passphrase_text: passphrase.BackupPassphraseText = None,
) -> None:
    """Write all of a control plane to one encrypted file, also while it runs.

    Database, online keys, certificate authorities, models repository, chunks and settings. Run it
    as the user of the service. The passphrase (SHOAL_BACKUP_PASSPHRASE, --passphrase-file or a
    prompt) opens the backup again; without it nobody can. Owners' keys are not in it.

    \b
    Examples:
      shoal backup --data /var/lib/shoal --out /mnt/safe
      shoal backup inspect /mnt/safe/shoal-20261121T133000Z.backup
    """
    if context.invoked_subcommand is not None:
        return
    found = settings.last({"data": data, "database": database}, os.environ)
    now = time.time()
    request = taking.Request(found.data, found.database_url, version("shoal"), now)
    if dry_run:
        show(taking.describe(request))
        return
    if out is None:
        raise InputError("a backup needs a file or folder to be written to", hint="Say --out FILE.")
    file = out / time.strftime(f"shoal-%Y%m%dT%H%M%SZ.{SUFFIX}", time.gmtime(now))
    file = file if out.is_dir() else out
    secret = passphrase.read_for_backup(passphrase_file, passphrase_text, is_new=True)
    with Meter("backup") as meter:
        show(taking.take(request, file, secret, progress=meter), file=str(file))


@app.command()
def inspect(
    file: BackupFile,
    *,
    passphrase_file: passphrase.BackupPassphraseFile = None,
    passphrase_text: passphrase.BackupPassphraseText = None,
) -> None:
    """Show what is in a backup, after every byte of it was checked.

    \b
    Example:
      shoal backup inspect shoal-20261121T133000Z.backup
    """
    secret = passphrase.read_for_backup(passphrase_file, passphrase_text, is_new=False)
    show(restoring.inspect(file, secret))


def show(description: Description, **more: object) -> None:
    """Print what a backup says of itself."""
    found: dict[str, Any] = {**more, **msgspec.to_builtins(description)}
    output.show_one(found, dict.fromkeys(found, output.plain) | {"created": time_of})


def time_of(value: object) -> str:
    """Return a time as a person reads it."""
    assert isinstance(value, int | float)
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(value))
