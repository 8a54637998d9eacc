"""`shoal apply`: cohorts and rollouts as a folder declares them; twice is once."""

from __future__ import annotations

from typing import Annotated

import typer

from control_plane.cli import changes, declared, http
from control_plane.cli.changes import Change
from control_plane.cli.diff import Folder, Prune, SetName, Sure, compare, tell

app = typer.Typer(rich_markup_mode=None)


@app.command()
def apply(
    folder: Folder,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all and say what would change; change nothing.")
    ] = False,
    set_name: SetName = "default",
    prune: Prune = False,
    yes: Sure = False,
) -> None:
    """Make cohorts and rollouts as a folder of files declares them.

    All files are checked first. Cohorts are made or changed; a rollout is started once, and never
    changed. Doing it again changes nothing. Nothing is removed but with --prune: then cohorts that
    this set of files made and no longer declares are deleted, and its rollouts aborted, where
    nobody was offered anything yet.

    \b
    Examples:
      shoal apply -f fleet/ --dry-run
      shoal apply -f fleet/
      shoal apply -f fleet/ --set berlin --prune
    """
    wanted = declared.read(folder)
    with http.connect() as api:
        found = compare(api, wanted, set_name, prune=prune, is_sure=yes)
        done: list[Change] = []
        try:
            for change in found:
                if not dry_run:
                    changes.carry_out(api, change, set_name)
                done.append(change)
        finally:
            tell(done)
