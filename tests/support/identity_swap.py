"""A program that swaps a device's identity for another, and dies at each step of it in turn.

    python -P tests/support/identity_swap.py FOLDER KIND

It prints, one line a death, which identity counted afterwards. KIND says what was there before:
`link` an identity as it is kept now, `folder` one as an earlier agent left it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec  # noqa: F401 - loaded before the forks

from agent import enrolment, identity
from firmware_bundles import durable
from firmware_bundles.wire.enrolment import Enrolment

_DIED = 9
_EVENTS = frozenset({"open", "os.rename", "os.symlink", "os.remove", "os.mkdir", "os.chmod"})


def answer(name: str) -> Enrolment:
    """What a server would have answered; every file of it names the identity."""
    return Enrolment(
        device=name,
        certificate=name,
        ca=name,
        root=name.encode(),
        broker="mqtts://broker.example",
        telemetry_secret=name.encode(),
    )


def swap(state_dir: Path, name: str) -> None:
    """Make an identity, and let it be the one that counts."""
    staged = identity.stage(state_dir)
    durable.write(staged / identity.KEY, name.encode(), mode=0o600)
    given = answer(name)
    enrolment._keep(staged, "https://server.example", given, given.root)
    identity.publish(state_dir)


def counted(state_dir: Path) -> str:
    """The one identity of which every file is; what is mixed is told as such."""
    found = identity.load(state_dir)
    folder = found.directory
    names = {path.read_bytes().decode() for path in folder.iterdir() if path.name != identity.FACTS}
    return found.device if names == {found.device} else f"mixed: {sorted(names)}"


def prepare(state_dir: Path, kind: str) -> None:
    """Leave the old identity there."""
    shutil.rmtree(state_dir, ignore_errors=True)
    state_dir.mkdir(parents=True)
    swap(state_dir, "old")
    if kind == "folder":
        made = identity.folder(state_dir)
        (state_dir / identity.FOLDER).unlink()
        made.rename(state_dir / identity.FOLDER)


def die_at(state_dir: Path, step: int) -> bool:
    """Swap in a child that ends at this step; return whether it came to its end before."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != _DIED
    left = [step]

    def count(event: str, _arguments: object) -> None:
        if event in _EVENTS:
            left[0] -= 1
            if left[0] == 0:
                os._exit(_DIED)

    sys.addaudithook(count)
    swap(state_dir, "new")
    os._exit(0)


def main(state_dir: Path, kind: str) -> None:
    """Die at every step."""
    step, is_over = 0, False
    while not is_over:
        step += 1
        prepare(state_dir, kind)
        is_over = die_at(state_dir, step)
        after = counted(state_dir)
        swap(state_dir, "again")
        identity.sweep(state_dir)
        kept = [path.name for path in state_dir.glob("identity-*")]
        print(after, counted(state_dir), len(kept), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
