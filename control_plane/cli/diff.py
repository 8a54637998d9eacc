"""`shoal diff`: what `shoal apply` would change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import changes, declared, http, output, pruning
from control_plane.cli.changes import Kind

app = typer.Typer(rich_markup_mode=None)

EXIT_CHANGES: Final = 10
Folder = Annotated[Path, typer.Option("--folder", "-f", help="Folder with cohorts/ and rollouts/.")]


SetName = Annotated[
    str,
    typer.Option(
        "--set", help="Name of this set of files: what one made, the pruning of another leaves."
    ),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Also what the set made and no longer declares.")
]
Sure = Annotated[bool, typer.Option("--yes", help="Remove rollouts that run, too.")]


@app.command()
def diff(
    folder: Folder, *, set_name: SetName = "default", prune: Prune = False, yes: Sure = False
) -> None:
    """Tell what `shoal apply` would change. Nothing is changed.

    Exit status: 0 nothing, 10 something, 2 a file cannot be used.

    \b
    Examples:
      shoal diff -f fleet/
      shoal diff -f fleet/ --prune
    """
    wanted = declared.read(folder)
    with http.connect() as api:
        found = compare(api, wanted, set_name, prune=prune, is_sure=yes)
    tell(found)
    if any(change.kind not in (Kind.UNCHANGED, Kind.KEPT) for change in found):
        raise typer.Exit(EXIT_CHANGES)


def compare(
    api: http.Api, wanted: declared.Declared, set_name: str, *, prune: bool, is_sure: bool
) -> list[changes.Change]:
    """Return what is to be done, in order: what is removed comes last."""
    found = changes.compare(api, wanted)
    if prune:
        found += pruning.removals(api, wanted, set_name, is_sure=is_sure)
    return found


def tell(found: list[changes.Change]) -> None:
    """Print changes, one a line."""
    if output.is_json():
        output.show_json([change.document for change in found])
        return
    for change in found:
        print(output.clean(str(change)))
    if not found:
        output.note("nothing is declared")
