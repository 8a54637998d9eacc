"""The `shoal` command: global options, the list of nouns, and what errors become.

Each noun lives in a module of its own that is imported only when it is used, so that `shoal --help`
stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import output
from control_plane.cli.options import CURRENT, SERVER_DEFAULT, Format, Options
from firmware_bundles.errors import (
    AccessError,
    InputError,
    RolloutDoubtful,
    ShoalError,
    TransferError,
    TrustError,
    WireError,
)

HELP: Final = """Ship signed, quantized models to edge devices, and know whether they do better.

    \b
    shoal serve --data /var/lib/shoal            start a control plane
    shoal keys init --out keys --family digits   make the owners' keys
    shoal bundle build --help                    turn a model into a bundle
    shoal rollout watch ROLLOUT                  follow a rollout
"""
NOUNS: Final[dict[str, str]] = {
    "serve": "Run the control plane.",
    "bundle": "Build and check bundles: a model with all that belongs to it.",
    "keys": "Make the owners' keys and lay the root of trust.",
    "release": "Sign and publish bundles.",
    "device": "Invite, list, label, revoke and retire devices.",
    "token": "Make, list and withdraw API tokens.",
    "broker": "Show the broker; make the files of one that somebody else runs.",
    "apply": "Make cohorts and rollouts as a folder of files declares them.",
    "diff": "Tell what `apply` would change.",
    "cohort": "Name sets of devices by their labels.",
    "rollout": "Bring a release to a cohort in phases, and watch it.",
    "audit": "Tell who did what, and whether that log is whole.",
    "alert": "List what is the matter with the fleet, and take notice of it.",
    "webhook": "Tell others of alerts.",
    "backup": "Write all of a control plane to one encrypted file.",
    "restore": "Make a folder the control plane that was backed up.",
    "samples": "Count and export the inputs that devices captured.",
    "telemetry": "Ask what the fleet predicts, and how that drifts.",
}
# Nouns that are commands themselves.
_SINGLE: Final = frozenset({"apply", "diff", "restore", "serve"})
_GLOBAL_OPTIONS: Final = ("--server", "--token", "--ca", "--output")
_EXIT_CODES: Final[tuple[tuple[type[ShoalError], int], ...]] = (
    (RolloutDoubtful, 3),
    (InputError, 2),
    (WireError, 2),
    (TrustError, 3),
    (TransferError, 4),
    (AccessError, 5),
)
_EXIT_FAILED: Final = 1


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit 0 done, 1 failed, 2 usage, 3 refused, 4 try later, 5 unauthorised."""
    given = sys.argv[1:] if arguments is None else arguments
    ordered = globals_first(given)
    try:
        build(_noun(ordered))(args=ordered, prog_name="shoal")
    except ShoalError as error:
        output.fail(error)
        sys.exit(exit_code(error))
    except OSError as error:
        output.note(f"error: {error.filename or 'system'}: {error.strerror or error} (os)")
        sys.exit(_EXIT_FAILED)


def exit_code(error: ShoalError) -> int:
    """Return what the shell is told about an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), _EXIT_FAILED)


def build(noun: str | None) -> typer.Typer:
    """Return the command with all nouns listed, of which only `noun` is loaded."""
    app = typer.Typer(
        help=HELP,
        callback=_remember,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, text in NOUNS.items():
        if name == noun:
            _add(app, name, text)
        else:
            app.add_typer(typer.Typer(callback=_nothing), name=name, help=text)
    return app


def globals_first(arguments: list[str]) -> list[str]:
    """Return the arguments with global options in front; they may stand anywhere before `--`."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in _GLOBAL_OPTIONS:
            front += [argument, *([value] if (value := next(waiting, None)) is not None else [])]
        elif argument.startswith(tuple(f"{option}=" for option in _GLOBAL_OPTIONS)):
            front.append(argument)
        else:
            rest.append(argument)
    return front + rest


def _noun(ordered: list[str]) -> str | None:
    """Return the first word that is no global option or its value."""
    waiting = iter(ordered)
    for argument in waiting:
        if argument in _GLOBAL_OPTIONS:
            next(waiting, None)
        elif not argument.startswith("-"):
            return argument
    return None


def _add(app: typer.Typer, name: str, text: str) -> None:
    module = f"control_plane.cli.{name}"
    try:
        loaded: typer.Typer = import_module(module).app
    except ModuleNotFoundError as error:
        raise InputError(
            f"'shoal {name}' needs {error.name}, which is not installed",
            hint="Install the control plane: pip install 'shoal[control-plane]'.",
        ) from error
    if (
        loaded.registered_callback is None
        and len(loaded.registered_commands) == 1
        and name in _SINGLE
    ):
        command = loaded.registered_commands[0]
        command.name = name
        app.registered_commands.append(command)
    elif (
        loaded.registered_callback is not None and loaded.registered_callback.invoke_without_command
    ):
        app.add_typer(loaded, name=name)  # a command too, which tells more of itself
    else:
        app.add_typer(loaded, name=name, help=text)


def _tell_version(is_asked: bool) -> None:  # noqa: FBT001 - so typer calls it
    if is_asked:
        print(f"shoal {metadata.version('shoal')}")
        raise typer.Exit


def _remember(
    *,
    server: Annotated[
        str, typer.Option(envvar="SHOAL_SERVER", help="Address of the control plane.")
    ] = SERVER_DEFAULT,
    token: Annotated[
        str | None, typer.Option(envvar="SHOAL_TOKEN", help="API token.", show_default=False)
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(envvar="SHOAL_CA", help="Certificates that the server's is checked against."),
    ] = None,
    output: Annotated[Format, typer.Option(help="How answers are printed.")] = Format.TABLE,
    version: Annotated[  # noqa: ARG001 - answered as it is read
        bool,
        typer.Option(
            "--version", help="Print the version and end.", is_eager=True, callback=_tell_version
        ),
    ] = False,
) -> None:
    CURRENT.set(Options(server=server, token=token, ca=ca, output=output))


def _nothing() -> None:
    """Stand in for a noun that is not used in this run."""


if __name__ == "__main__":
    main()
