"""`shoal apply`: cohorts and rollouts as a folder declares them; twice is once."""

from __future__ import annotations

from typing import Annotated

import typer

from control_plane.cli import changes, declared, http
from control_plane.cli.changes import Change
from control_plane.cli.diff import Folder, tell

app = typer.Typer(rich_markup_mode=None)


@app.command()
def apply(
    folder: Folder,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all and say what would change; change nothing.")
    ] = False,
) -> None:
    """Make cohorts and rollouts as a folder of files declares them.

    All files are checked first. Cohorts are made or changed; a rollout is started once, and never
    changed. Nothing is removed. Doing it again changes nothing.

    \b
    Examples:
      shoal apply -f fleet/ --dry-run
      shoal apply -f fleet/
    """
    wanted = declared.read(folder)
    with http.connect() as api:
        found = changes.compare(api, wanted)
        done: list[Change] = []
        try:
            for change in found:
                if not dry_run:
                    changes.carry_out(api, change)
                done.append(change)
        finally:
            tell(done)
