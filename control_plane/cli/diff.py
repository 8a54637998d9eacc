"""`shoal diff`: what `shoal apply` would change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import changes, declared, http, output
from control_plane.cli.changes import Kind

app = typer.Typer(rich_markup_mode=None)

EXIT_CHANGES: Final = 10
Folder = Annotated[Path, typer.Option("--folder", "-f", help="Folder with cohorts/ and rollouts/.")]


@app.command()
def diff(folder: Folder) -> None:
    """Tell what `shoal apply` would change. Nothing is changed.

    Exit status: 0 nothing, 10 something, 2 a file cannot be used.

    \b
    Example:
      shoal diff -f fleet/
    """
    wanted = declared.read(folder)
    with http.connect() as api:
        found = changes.compare(api, wanted)
    tell(found)
    if any(change.kind is not Kind.UNCHANGED for change in found):
        raise typer.Exit(EXIT_CHANGES)


def tell(found: list[changes.Change]) -> None:
    """Print changes, one a line."""
    if output.is_json():
        output.show_json([change.document for change in found])
        return
    for change in found:
        print(output.clean(str(change)))
    if not found:
        output.note("nothing is declared")
