"""The main job of shoal on one machine: a fleet, staged rollouts, a bad model that stops itself."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import httpx

from fleet import Installation, remove
from processes import ProgramError
from story import Story, print_summary

if TYPE_CHECKING:
    from collections.abc import Sequence


_DEVICES = range(4, 65)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo.sh",
        description=__doc__,
        epilog="example: ./demo.sh --headless --devices 8 --json result.json",
    )
    parser.add_argument("--devices", type=int, default=8, help="how many devices (default 8)")
    parser.add_argument("--headless", action="store_true", help="end when all has been shown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was seen to FILE")
    parser.add_argument(
        "--broker", choices=["auto", "mosquitto", "amqtt"], default="auto",
        help="auto takes mosquitto where it is installed (default)",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the directory of state and logs")
    given = parser.parse_args(words)
    if given.devices not in _DEVICES:
        parser.error(
            "--devices takes 4 to 64: the first phase is a quarter, and the rest compares with it"
        )
    return given


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _show(story: Story, given: argparse.Namespace) -> bool:
    story.tell()
    result = story.result()
    print_summary(result)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    if not given.headless:
        print(
            f"\nAll goes on until Ctrl-C. Page: {story.installation.url}/"
            f"  token: {story.installation.token}"
        )
        story.go_on()
        threading.Event().wait()
    return bool(result["ok"])


def main(words: Sequence[str]) -> int:
    """Run the demonstration; returns the exit status."""
    given = _arguments(words)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    root = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    installation = Installation(
        root, broker=given.broker, say=lambda line: print(f"    {line}", flush=True)
    )
    story = Story(installation, given.devices)
    is_fine = False
    try:
        is_fine = _show(story, given)
    except (ProgramError, httpx.HTTPError) as error:
        print(f"\ndemo: {error}\ndemo: state and logs are kept in {root}", file=sys.stderr)
        given.keep = True
    except KeyboardInterrupt:
        print("\nstopping", file=sys.stderr)
        is_fine = bool(story.seconds.get("count")) and not story.failures
    finally:
        story.feeder.stop()
        installation.stop()
        story.receiver.stop()
        if not given.keep:
            remove(root)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
