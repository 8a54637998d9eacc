"""The command `shoal-agent`: arguments in, lines and exit status out; the work stands elsewhere.

Every verb imports what it needs by itself, so that the running core stays light.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent import config as configuration
from firmware_bundles.errors import (
    AccessError,
    InputError,
    ShoalError,
    TransferError,
    TrustError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.config import Config, Settings
    from agent.local_control import Request

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
LATER: Final = 4
UNAUTHORISED: Final = 5
_INTERRUPTED: Final = 130
# Has a parser and exit statuses of its own, which scripts for other TUF clients expect.
_TRUST: Final = "trust"

_EXAMPLES: Final = """\
examples:
  shoal-agent enrol --server https://fleet.example:8443 --token T0KEN --ca ca.pem
  shoal-agent run
  shoal-agent --state-dir /tmp/device-1 run --run-dir /tmp/run-1 --set report_s=60
  shoal-agent status --output json
  shoal-agent usage --days 30
  shoal-agent slots
  shoal-agent mark bad serving
  shoal-agent rollback --family digits
  shoal-agent doctor

exit status:
  0 done   1 failed   2 usage   3 refused (untrusted)   4 try later   5 not authorised
"""


# Predictions and identity are nobody else's business; the worker may be a member of the group.
_UMASK: Final = 0o027


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == [_TRUST]:
        from agent import trust_command

        return trust_command.main(given[1:])
    options = _parser().parse_args(given)
    os.umask(_UMASK)
    try:
        verb: Callable[[argparse.Namespace], int] = options.verb
        return verb(options)
    except ShoalError as error:
        print(f"error: {error.message} ({error.code})", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return exit_status(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except Exception as error:  # noqa: BLE001 - a fault of our own is one line, too
        import traceback

        place = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"error: a fault in shoal-agent itself: {error!r:.200} "
            f"at {Path(place.filename).name}:{place.lineno} ({ShoalError.code})",
            file=sys.stderr,
        )
        return FAILED


def exit_status(error: ShoalError) -> int:
    """Return the status that tells a script what kind of refusal this is."""
    kinds = (
        (TrustError, REFUSED),
        (TransferError, LATER),
        (AccessError, UNAUTHORISED),
        (InputError, USAGE),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), FAILED)


class _Version(argparse.Action):
    """Tells the version; it is looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        print(f"shoal-agent {metadata.version('shoal')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shoal-agent",
        description="The device side of shoal: takes signed models, runs them, tells the truth.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help=f"where this device keeps everything (default {configuration.STATE_DIR_DEFAULT})",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    enrol = _verb(verbs, "enrol", _enrol, "make this device a member of a fleet; safe to repeat")
    enrol.add_argument("--server", required=True, metavar="URL", help="https:// address")
    enrol.add_argument("--token", required=True, help="the one-use token of this device")
    enrol.add_argument("--ca", required=True, type=Path, metavar="FILE", help="the server's CA")
    enrol.add_argument("--device", metavar="NAME", help="a wish; the token may decide otherwise")
    enrol.add_argument(
        "--new-key", action="store_true", help="make another key: this one was revoked"
    )
    enrol.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="keep the private key in this file alone; it is made if it is not there",
    )
    run = _verb(verbs, "run", _run, "run the agent in the foreground until SIGTERM")
    status = _verb(verbs, "status", _status, "what runs here; works while the agent is down")
    status.add_argument("--output", choices=("text", "json"), default="text")
    slots = _verb(verbs, "slots", _slots, "both slots of each family: model, mark, counts, times")
    slots.add_argument("--output", choices=("text", "json"), default="text")
    mark = _verb(verbs, "mark", _mark, "mark a slot's model; nothing falls back to a bad one")
    mark.add_argument("mark", choices=("good", "bad"))
    mark.add_argument("slot", choices=("serving", "other"))
    back = _verb(
        verbs,
        "rollback",
        _rollback,
        "end an open deployment, or let the other slot serve again; no download, no network",
    )
    for each in (mark, back):
        each.add_argument("--family", help="needed where this device has several")
        each.add_argument("--output", choices=("text", "json"), default="text")
    doctor = _verb(verbs, "doctor", _doctor, "every setting with its origin, and what is wrong")
    usage = _verb(verbs, "usage", _usage, "bytes by day, link and purpose; budgets and what waits")
    usage.add_argument("--days", type=int, default=7, metavar="N", help="newest days (default 7)")
    usage.add_argument("--output", choices=("text", "json"), default="text")
    content = _verb(verbs, "buffer", _buffer, "what waits to be delivered, what was dropped, why")
    content.add_argument("--output", choices=("text", "json"), default="text")
    _verb(verbs, _TRUST, _trust, "check any TUF repository: 'shoal-agent trust --help'")
    for each in (run, status, slots, mark, back, usage, content, doctor):
        each.add_argument("--run-dir", type=Path, metavar="DIR", help="where the sockets are")
        each.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="a setting for this run; 'doctor' lists them all",
        )
    return parser


def _verb(
    verbs: Any,  # noqa: ANN401 - argparse keeps the type to itself
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(verb=function)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    flags: dict[str, str] = {}
    for pair in getattr(options, "set", []):
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set takes NAME=VALUE, not {pair!r:.80}")
        flags[name] = value
    if getattr(options, "run_dir", None):
        flags["run_dir"] = str(options.run_dir)
    return configuration.load(options.state_dir, flags, os.environ)


def _enrol(options: argparse.Namespace) -> int:
    from agent import enrolment

    config = _settings(options).config
    state_dir = config.state_dir
    device = enrolment.enrol(
        state_dir,
        server=options.server,
        token=options.token,
        ca=options.ca,
        device=options.device,
        wants_new_key=options.new_key,
        key_file=options.key_file or config.key_file,
    )
    print(f"enrolled as {device}; its identity is in {state_dir / 'identity'}")
    print("an agent that runs already takes it when it is started again")
    return DONE


def _trust(options: argparse.Namespace) -> int:  # noqa: ARG001 - every verb is called alike
    raise InputError("'trust' is the first word: shoal-agent trust --metadata-dir D VERB")


def _run(options: argparse.Namespace) -> int:
    import asyncio

    from agent import daemon

    asyncio.run(daemon.run(_settings(options).config))
    return DONE


def _status(options: argparse.Namespace) -> int:
    from agent import status

    facts = status.gather(_settings(options).config)
    if options.output == "json":
        _print_json(facts)
    else:
        from agent import status_text

        print("\n".join(status_text.lines(facts)))
    return DONE if facts.device else FAILED


def _slots(options: argparse.Namespace) -> int:
    from agent import status

    config = _settings(options).config
    found = status.slots_by_family(config)
    if options.output == "json":
        _print_json(found)
    else:
        from agent import status_text

        print("\n".join(status_text.slot_lines(found)) or "no family was ever installed here")
    return DONE


def _mark(options: argparse.Namespace) -> int:
    from agent.local_control import MarkSlot

    config = _settings(options).config
    family = _family(config, options.family)
    return _carry_out(options, MarkSlot(family=family, slot=options.slot, mark=options.mark))


def _rollback(options: argparse.Namespace) -> int:
    from agent.local_control import RollBack

    config = _settings(options).config
    return _carry_out(options, RollBack(family=_family(config, options.family)))


def _carry_out(options: argparse.Namespace, request: Request) -> int:
    from agent import local_actions

    done = local_actions.carry_out(_settings(options).config, request)
    if options.output == "json":
        _print_json(done)
    else:
        model = f"version {done.version} in slot {done.slot}" if done.slot else "nothing"
        print(f"{done.family}: {model} serves; the deployment is {done.state or 'unknown'}")
    return DONE


def _family(config: Config, wish: str | None) -> str:
    from agent.deployment import slots

    found = slots.families(config.state_dir / "slots")
    if wish is not None and wish not in found:
        raise InputError(f"there is no family {wish!r:.80} here, only {', '.join(found) or 'none'}")
    if wish is None and len(found) != 1:
        raise InputError(
            f"this device has {len(found)} families: {', '.join(found) or 'none'}",
            hint="Say which with --family." if found else "Nothing was installed yet.",
        )
    return wish or found[0]


def _print_json(value: object) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _usage(options: argparse.Namespace) -> int:
    from agent import usage

    if options.days < 1:
        raise InputError(f"--days must be 1 or more, not {options.days}")
    facts = usage.gather(_settings(options).config, options.days)
    if options.output == "json":
        _print_json(facts)
    else:
        print("\n".join(usage.lines(facts)))
    return DONE


def _buffer(options: argparse.Namespace) -> int:
    from agent import buffer_text
    from agent.store import buffer_facts

    facts = buffer_facts.read(_settings(options).config.state_dir / "spool" / "buffer.db")
    if options.output == "json":
        _print_json(facts)
    else:
        print("\n".join(buffer_text.lines(facts)))
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    from agent import doctor

    config, origins = _settings(options)
    for name, origin in origins.items():
        print(f"setting  {name} = {getattr(config, name)} ({origin})")
    checks = doctor.examine(config)
    for check in checks:
        print(f"{check.result.value:<8} {check.name}: {check.detail}")
        if check.action:
            print(f"         -> {check.action}")
    return FAILED if any(check.result is doctor.Result.FAILED for check in checks) else DONE


if __name__ == "__main__":
    sys.exit(main())
