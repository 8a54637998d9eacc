"""`shoal rollout`: start a rollout, watch it, ask why, and step in."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from control_plane.cli import http, output, rollout_text, simulation_text
from firmware_bundles.errors import InputError, ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_POLL_S: Final = 0.5
_UNREACHABLE_S_MAX: Final = 60.0
_ROWS_PER_PAGE: Final = 1_000
_EXIT_HALTED: Final = 3
_EXIT_LATE: Final = 4
_EXIT_CODES: Final = {
    "completed": 0,
    "paused": _EXIT_HALTED,
    "rolled_back": _EXIT_HALTED,
    "cancelled": _EXIT_HALTED,
}
_LIST_COLUMNS: Final[dict[str, Callable[[Any], str]]] = {
    "id": str,
    "release": str,
    "cohort": str,
    "state": str,
    "phase": lambda phase: str(phase + 1),
    "phase_state": str,
    "created": rollout_text.moment,
    "created_by": str,
}
_DEVICE_COLUMNS: Final = ("position", "device_id", "status", "fault_code", "fault_message")

Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse it, with exit status 3, if there is a warning.")
]
RolloutId = Annotated[str, typer.Argument(metavar="ROLLOUT", show_default=False)]


@app.command()
def start(
    file: Annotated[
        Path, typer.Argument(help="A rollout file, YAML or JSON; - reads it from standard input.")
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it and say what it would start; start nothing.")
    ] = False,
    strict: Strict = False,
) -> None:
    """Start a rollout as a file describes it, and print its id.

    \b
    Examples:
      shoal rollout start digits-2.yaml --dry-run
      shoal rollout start digits-2.yaml --strict
      shoal rollout watch "$(shoal rollout start digits-2.yaml)"
    """
    if dry_run:
        _check(file, strict=strict)
        return
    with http.connect() as api:
        wanted = "true" if strict else None
        document = api.post("rollouts", content=_read(file), strict=wanted)
    if output.is_json():
        output.show_json(document)
        return
    for line in rollout_text.notes(document["notes"]):
        output.note(line)
    print(document["id"])


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Option("--file", "-f", help="A rollout file; - reads it from standard input."),
    ],
    *,
    strict: Strict = False,
) -> None:
    """Check a rollout file: what it would start, and what is doubtful about it.

    Exit status: 0 it can start, 2 it cannot, 3 there is a warning and --strict was asked for.

    \b
    Examples:
      shoal rollout check -f digits-2.yaml
      shoal rollout check -f digits-2.yaml --strict --output json
    """
    _check(file, strict=strict)


@app.command()
def schema() -> None:
    """Print the JSON Schema of rollout files, for editors and checks of your own.

    \b
    Example:
      shoal rollout schema > rollout.schema.json
    """
    with http.connect() as api:
        output.show_json(api.get("schemas/rollout"))


@app.command(name="list")
def list_all() -> None:
    """List rollouts, the newest first.

    \b
    Example:
      shoal rollout list
    """
    with http.connect() as api:
        output.show(api.get("rollouts"), _LIST_COLUMNS, empty="no rollouts")


@app.command()
def show(rollout: RolloutId) -> None:
    """Show a rollout: its phases with counts, what the gates find, and why.

    \b
    Example:
      shoal rollout show digits-2-1a2b3c
    """
    _print(_load(rollout), rollout_text.overview)


@app.command()
def explain(rollout: RolloutId) -> None:
    """Tell why a rollout stands where it does: decisions with reasons, gates with their numbers.

    \b
    Example:
      shoal rollout explain digits-2-1a2b3c
    """
    _print(_load(rollout), rollout_text.explanation)


@app.command()
def devices(rollout: RolloutId) -> None:
    """List where each device of a rollout stands, in the order of offers.

    \b
    Example:
      shoal rollout devices digits-2-1a2b3c
    """
    with http.connect() as api:
        output.show(list(_devices(api, rollout)), _DEVICE_COLUMNS)


@app.command()
def pause(rollout: RolloutId) -> None:
    """Hold offers. Gates go on watching: harm still rolls back.

    \b
    Example:
      shoal rollout pause digits-2-1a2b3c
    """
    _act(rollout, "pause")


@app.command()
def resume(rollout: RolloutId) -> None:
    """Go on where it was; timeouts, soaks and deadlines of the phase begin anew.

    \b
    Example:
      shoal rollout resume digits-2-1a2b3c
    """
    _act(rollout, "resume")


@app.command()
def promote(rollout: RolloutId) -> None:
    """End the present phase now: the rest of its soak, and what gates cannot say, is waived.

    A gate that fails, or an approval that is wanted, is not.

    \b
    Example:
      shoal rollout promote digits-2-1a2b3c
    """
    _act(rollout, "promote")


@app.command()
def retry(rollout: RolloutId) -> None:
    """Offer again to the devices that failed or rolled back; the phase begins anew with them.

    \b
    Example:
      shoal rollout retry digits-2-1a2b3c
    """
    _act(rollout, "retry")


@app.command()
def approve(
    rollout: RolloutId,
    *,
    phase: Annotated[
        int | None,
        typer.Option(min=1, help="Which phase, counted from 1; else the first that wants it."),
    ] = None,
) -> None:
    """Let a phase begin that asks for an approval. Who started the rollout may not.

    \b
    Example:
      shoal rollout approve digits-2-1a2b3c
    """
    wanted = {} if phase is None else {"phase": phase - 1}
    with http.connect() as api:
        _print(api.post(_path(rollout, "/approve"), json=wanted), rollout_text.overview)


@app.command()
def abort(rollout: RolloutId) -> None:
    """Stop for good and leave every device as it is.

    \b
    Example:
      shoal rollout abort digits-2-1a2b3c
    """
    _act(rollout, "abort")


@app.command()
def rollback(rollout: RolloutId) -> None:
    """Send every device with an offer back to its previous model, also after the end.

    \b
    Example:
      shoal rollout rollback digits-2-1a2b3c
    """
    _act(rollout, "rollback")


@app.command()
def watch(
    rollout: RolloutId,
    *,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Give up after so long.")
    ] = None,
) -> None:
    """Follow a rollout until it has ended, or is paused.

    Where a phase waits for an approval, the command that gives it is told; watching goes on.
    Exit status: 0 completed, 3 paused, aborted or rolled back, 4 not ended within --timeout.

    \b
    Example:
      shoal rollout watch digits-2-1a2b3c
    """
    deadline = time.monotonic() + timeout if timeout is not None else None
    documents = _follow(rollout, deadline)
    is_live = sys.stdout.isatty() and not output.is_json()
    last = (_watch_live if is_live else _watch_lines)(documents)
    if output.is_json():
        output.show_json(last)
    code = _EXIT_CODES.get(last["state"], _EXIT_LATE)
    waits = rollout_text.awaited(last) if "id" in last else []
    if code == _EXIT_LATE:
        output.note("; ".join([f"rollout {rollout} is still {last['state']}", *waits]))
    raise typer.Exit(code)


@app.command()
def simulate(
    file: Annotated[
        Path,
        typer.Option("--file", "-f", help="A rollout file; - reads it from standard input."),
    ],
    *,
    devices: Annotated[
        int | None, typer.Option(help="A made-up fleet of so many, instead of the file's cohort.")
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            "--assume",
            "-a",
            metavar="NAME=VALUE",
            help="An assumption, such as failed=0.02; may be repeated.",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(help="How often to run it.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed gives the same runs.")] = 1,
    transcript: Annotated[
        bool, typer.Option("--transcript", help="Tell each decision of the first run.")
    ] = False,
) -> None:
    """Run a rollout file over a simulated fleet: how long, how many bytes, what is found.

    The planner and the gates are those that decide for real. Assumptions are described in
    docs/how-to/simulate-a-rollout.md.

    \b
    Examples:
      shoal rollout simulate -f digits-2.yaml
      shoal rollout simulate -f digits-2.yaml --devices 1000 -a failed=0.02 -a labels_per_h=20
      shoal rollout simulate -f digits-2.yaml --devices 1000 --transcript --runs 1
    """
    query: dict[str, str | int | None] = dict(_assumption(each) for each in assume or ())
    query |= {"devices": devices, "runs": runs, "seed": seed}
    query["transcript"] = "true" if transcript else None
    with http.connect() as api:
        document = api.post("rollouts/simulate", content=_read(file), **query)
    _print(document, simulation_text.report)


def _assumption(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"{text!r:.80} is no assumption", hint="Write it as failed=0.02.")
    return name.strip().replace("-", "_"), value.strip()


def _check(file: Path, *, strict: bool) -> None:
    with http.connect() as api:
        document = api.post("rollouts/check", content=_read(file))
    if output.is_json():
        output.show_json(document)
    else:
        output.show_one(document, ("release_path", "members", "left_out", "phase_ends"))
        for line in rollout_text.notes(document["notes"]):
            print(output.clean(line))
    if strict and any(note["severity"] == "warning" for note in document["notes"]):
        raise typer.Exit(_EXIT_HALTED)


def _follow(rollout: str, deadline: float | None) -> Iterator[dict[str, Any]]:
    """Yield what is known of a rollout, again and again, until it ended or the time is over."""
    reached = time.monotonic()
    with http.connect() as api:
        while True:
            try:
                document = api.get(_path(rollout))
            except ServerUnreachable:
                # The control plane may be starting again; devices go on meanwhile.
                if time.monotonic() - reached > _UNREACHABLE_S_MAX:
                    raise
            else:
                reached = time.monotonic()
                yield document
                if document["state"] in _EXIT_CODES:
                    return
            if deadline is not None and time.monotonic() > deadline:
                return
            time.sleep(_POLL_S)


def _watch_live(documents: Iterator[dict[str, Any]]) -> dict[str, Any]:
    from rich.live import Live
    from rich.text import Text

    last: dict[str, Any] = {"state": "unknown"}
    with Live(refresh_per_second=4) as live:
        for last in documents:
            lines = rollout_text.overview(last)
            live.update(Text("\n".join(output.clean(line) for line in lines)))
    return last


def _watch_lines(documents: Iterator[dict[str, Any]]) -> dict[str, Any]:
    last: dict[str, Any] = {"state": "unknown"}
    told = 0
    waited: list[str] = []
    for last in documents:
        lines: list[str] = []
        for decision in last["decisions"][told:]:
            lines += rollout_text.decision(decision, last["phase_count"])
        told = len(last["decisions"])
        if (waits := rollout_text.awaited(last)) != waited:
            lines, waited = lines + waits, waits
        for line in lines:
            output.note(line) if output.is_json() else print(output.clean(line), flush=True)
    return last


def _act(rollout: str, verb: str) -> None:
    with http.connect() as api:
        _print(api.post(_path(rollout, f"/{verb}")), rollout_text.overview)


def _devices(api: http.Api, rollout: str) -> Iterator[dict[str, Any]]:
    after: int | None = -1
    while after is not None:
        page = api.get(_path(rollout, "/devices"), after=after, limit=_ROWS_PER_PAGE)
        yield from page["devices"]
        after = page["next"]


def _path(rollout: str, below: str = "") -> str:
    return f"rollouts/{quote(rollout, safe='')}{below}"


def _load(rollout: str) -> dict[str, Any]:
    with http.connect() as api:
        document: dict[str, Any] = api.get(_path(rollout))
    return document


def _print(document: dict[str, Any], words: Callable[[dict[str, Any]], list[str]]) -> None:
    if output.is_json():
        output.show_json(document)
        return
    for line in words(document):
        print(output.clean(line))


def _read(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
