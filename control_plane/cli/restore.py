"""`shoal restore`: a backup in place of a control plane that was lost."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from control_plane import config as settings
from control_plane.backup import restoring
from control_plane.cli import output, passphrase
from control_plane.cli.backup import BackupFile, show, time_of
from control_plane.cli.progress import Meter

if TYPE_CHECKING:
    from control_plane.backup.restoring import Restored

app = typer.Typer(rich_markup_mode=None)


@app.command()
def restore(
    file: BackupFile,
    *,
    data: Annotated[
        Path | None, typer.Option(help="The folder to make; else as 'shoal serve' takes it.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Set a folder that is not empty aside; it is kept.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify all, place nothing.")] = False,
    passphrase_file: passphrase.BackupPassphraseFile = None,
    passphrase_text: passphrase.BackupPassphraseText = None,
) -> None:
    """Make a folder the control plane that was backed up, and say what to do again.

    Everything is verified before anything is placed. Devices go on serving meanwhile, and come back
    by themselves if names, addresses and ports stay the same; none has to be enrolled again.

    \b
    Example:
      shoal restore shoal-20261121T133000Z.backup --data /var/lib/shoal
    """
    target = settings.load({"data": data}, os.environ).data.absolute()
    secret = passphrase.read_for_backup(passphrase_file, passphrase_text, is_new=False)
    with Meter("restore") as meter:
        restored = restoring.restore(
            file,
            target,
            secret,
            now=time.time(),
            may_replace=replace,
            is_trial=dry_run,
            progress=meter,
        )
    start = shlex.join(restoring.settings_of(target))
    again = advice(restored)
    if output.is_json():
        output.show_json(
            {
                "backup": msgspec.to_builtins(restored.description),
                "data": str(target),
                "is_repeated": restored.is_repeated,
                "set_aside": restored.set_aside,
                "paused": restored.paused,
                "going_back": restored.going_back,
                "start": start,
                "do_again": again,
            }
        )
        return
    show(restored.description, data=str(target), paused_rollouts=restored.paused)
    if dry_run:
        output.note("All of it is in order. Nothing was placed.")
        return
    if restored.is_repeated:
        output.note("This backup was restored there before, and not started since.")
    if restored.set_aside is not None:
        output.note(f"What was there before is in {restored.set_aside}.")
    output.note(f"Start it:  {start}")
    output.note(f"Nothing is known of what happened after {time_of(restored.description.created)}:")
    for line in again:
        output.note(f"  - {line}")


def advice(restored: Restored) -> list[str]:
    """Return what a person has to do, as what was done after the backup is not in it."""
    lines = [
        "Stop the lost control plane for good, if it may still run somewhere.",
        "Publish again, in order, what was published since: shoal release publish BUNDLE.",
        "Repeat what owners did since: withdrawals, floors, rotated keys, families.",
        "Revoke again every device that was revoked since: shoal device revoke DEVICE.",
        "Withdraw again every API token that was withdrawn since; make again those made since.",
        "Enrol again who was enrolled since, by name: shoal device list --unknown.",
    ]
    if restored.paused:
        lines.append(f"Look at the rollouts that are paused now: {', '.join(restored.paused)}.")
    if restored.going_back:
        lines.append(f"These rollouts go on rolling back: {', '.join(restored.going_back)}.")
    return lines
