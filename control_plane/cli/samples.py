"""`shoal samples`: inputs that devices captured, for retraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.cli import http, output, sample_files

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_samples() -> None:
    """Count the samples that are stored, by model.

    \b
    Example:
      shoal samples list
    """
    with http.connect() as api:
        answer = api.get("samples")
    output.show(answer, _COUNTS, empty="no samples yet")


@app.command()
def export(
    *,
    family: Annotated[str | None, typer.Option(help="The family of the models.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A folder, or a file that ends in .parquet.")
    ],
    version: Annotated[str | None, typer.Option(help="Only this version's samples.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Only this cohort's devices.")] = None,
    since: Annotated[float, typer.Option(help="What came from then on, in Unix seconds.")] = 0.0,
    until: Annotated[
        float | None, typer.Option(help="What came before then, in Unix seconds; else now.")
    ] = None,
    labelled_only: Annotated[
        bool, typer.Option("--labelled-only", help="Only samples whose true label came.")
    ] = False,
    again: Annotated[
        Path | None, typer.Option(help="A manifest: export the same once more.")
    ] = None,
) -> None:
    """Write samples with their labels as Parquet, and a manifest of where each came from.

    The manifest names the query: with --again the same query gives the same bytes, for as long as
    its samples are kept here. Needs pyarrow: pip install 'shoal[parquet]'.

    \b
    Example:
      shoal samples export --family digits --since 1767225600 --out training/
      shoal samples export --again training/manifest.json --out again/
    """
    asked = sample_files.Asked(family or "", version, cohort, since, until, labelled_only)
    query = asked if again is None else sample_files.asked_again(again)
    files = sample_files.files_of(out)
    with http.connect() as api:
        written = sample_files.write(query, files, lambda given: api.get("samples/rows", **given))
    output.show_one(written)


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _short(value: object) -> str:
    return str(value)[:12]


_COUNTS: dict[str, Callable[[object], str]] = {
    "family": _text,
    "version": _text,
    "model": _short,
    "devices": _text,
    "samples": _text,
}
