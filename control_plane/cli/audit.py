"""`shoal audit`: who did what, and whether that log is whole.

`verify` checks here, on the machine of who asks: the server hands out entries and is not asked for
its opinion.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from control_plane.audit import (
    LINE_BYTES_MAX,
    Entry,
    Head,
    Verification,
    encode_line,
    parse_head,
    parse_line,
    verify,
)
from control_plane.cli import http, output
from firmware_bundles.errors import InputError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_ROWS_PER_REQUEST: Final = 1_000
_EXIT_BROKEN: Final = 3
_LIST_COLUMNS: Final = ("number", "at", "actor", "action", "subject", "details")

Actor = Annotated[str, typer.Option(help="Only of this token's or device's name, or 'service'.")]
Action = Annotated[str, typer.Option(help="Only actions that begin so, for instance 'rollout.'.")]
Subject = Annotated[str, typer.Option(help="Only subjects that begin so: 'rollout/digits-2'.")]


@app.command(name="list")
def list_(
    *,
    actor: Actor = "",
    action: Action = "",
    subject: Subject = "",
    limit: Annotated[int, typer.Option(min=1, max=_ROWS_PER_REQUEST)] = 50,
) -> None:
    """List what happened last, the newest first.

    \b
    Examples:
      shoal audit list --actor anna
      shoal audit list --subject device/cam-7 --limit 10
    """
    with http.connect() as api:
        found = api.get("audit", limit=limit, actor=actor, action=action, subject=subject)
    rows = [{**each, "at": _when(each["at_ms"])} for each in found["entries"]]
    output.show(found["entries"] if output.is_json() else rows, _LIST_COLUMNS, empty="no entries")


@app.command()
def head() -> None:
    """Print the head of the log; note it elsewhere, for `verify --head`.

    \b
    Example:
      shoal audit head >> /mnt/elsewhere/audit-heads
    """
    with http.connect() as api:
        found = api.get("audit/head")
    if output.is_json():
        output.show_json(found)
    else:
        print(Head(found["number"], found["digest"]))


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option(help="A file; - is standard output.")] = Path("-"),
    after: Annotated[int, typer.Option(min=0, help="Only entries after this number.")] = 0,
) -> None:
    """Write the log, one entry a line (JSON), the oldest first.

    `verify --file` checks such a file, as long as it begins with the first entry.

    \b
    Example:
      shoal audit export --out audit.jsonl
    """
    if str(out) == "-":
        _write(sys.stdout.buffer, after)
        return
    try:
        with out.open("xb") as file:
            count = _write(file, after)
    except FileExistsError as error:
        raise InputError(f"{out} exists already", hint="Choose another name.") from error
    output.note(f"{out}: {count} entries")


@app.command(name="verify")
def check(
    *,
    file: Annotated[
        Path | None, typer.Option(help="An exported log, in place of the server's; - is stdin.")
    ] = None,
    noted: Annotated[
        list[str] | None,
        typer.Option("--head", help="A head that was noted elsewhere; may be given again."),
    ] = None,
) -> None:
    """Check that no entry was changed, removed, inserted or moved, and say which was.

    Entries cut off at the end are found only against a head that was noted elsewhere.
    Exit status: 0 whole, 3 not.

    \b
    Examples:
      shoal audit verify --head "$(tail -n 1 /mnt/elsewhere/audit-heads)"
      shoal audit verify --file audit.jsonl
    """
    heads = [parse_head(each) for each in noted or ()]
    found = verify(_fetched(0) if file is None else _exported(file), heads)
    if output.is_json():
        output.show_json(_document(found))
    else:
        _tell(found, is_noted=bool(heads))
    if not found.is_whole:
        raise typer.Exit(_EXIT_BROKEN)


def _tell(found: Verification, *, is_noted: bool) -> None:
    for fault in found.faults:
        print(fault.sentence)
    if found.more:
        print(f"and {found.more} faults more")
    if found.is_whole:
        print(f"whole: {found.entries} entries, head {found.head}")
        if not is_noted:
            output.note("Whether entries were cut off at the end, only a noted --head tells.")


def _document(found: Verification) -> dict[str, Any]:
    return {
        "is_whole": found.is_whole,
        "entries": found.entries,
        "head": found.head._asdict(),
        "faults": [fault._asdict() for fault in found.faults],
        "more": found.more,
    }


def _write(file: BinaryIO, after: int) -> int:
    count = 0
    for count, entry in enumerate(_fetched(after), start=1):  # noqa: B007 - the number of the last
        file.write(encode_line(entry) + b"\n")
    return count


def _fetched(after: int) -> Iterator[Entry]:
    """Yield the server's entries, in its order; what it was asked for before ends a round."""
    with http.connect() as api:
        while True:
            page = api.get("audit", after=after, limit=_ROWS_PER_REQUEST)["entries"]
            for each in page:
                yield parse_line(json.dumps(each).encode())
            if len(page) < _ROWS_PER_REQUEST or page[-1]["number"] <= after:
                return
            after = page[-1]["number"]


def _exported(file: Path) -> Iterator[Entry]:
    if str(file) == "-":
        yield from _lines(sys.stdin.buffer)
        return
    try:
        with file.open("rb") as opened:
            yield from _lines(opened)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error


def _lines(file: BinaryIO) -> Iterator[Entry]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        try:
            yield parse_line(line)
        except Malformed as error:
            raise Malformed(f"line {number}: {error.message}") from error


def _when(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%F %T} UTC"
