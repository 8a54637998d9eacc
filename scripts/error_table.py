"""Prints docs/reference/errors.md: every stable code, what it means, what to do.

Takes all from `firmware_bundles/errors/`: the first paragraph of a class's docstring is the
meaning, the second what to do; where there is none, the hint that people are shown counts.

    .venv/bin/python scripts/error_table.py > docs/reference/errors.md
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from firmware_bundles.errors import ShoalError

_HEAD = """\
# Errors

Written by `scripts/error_table.py` from `firmware_bundles/errors/`: change that folder, not this.

A refusal has a stable code, a sentence that says what was wrong, and mostly a hint. The code is the
same in the output of the commands, in the API (`code` of `application/problem+json`), in a device's
report and in logs. The part before the dot says who has to act. [Exit codes](exit-codes.md) follow
from it.

Two codes stand outside the table. `internal` is a fault of shoal itself: the log says more. `os` is
an error of the operating system on a file that a command was given, in the system's own words.
"""
_TITLES = {
    "trust": "somebody may be attacking",
    "bundle": "the publisher's fault",
    "transfer": "the other side cannot be reached",
    "device": "look at the device",
    "wire": "the other side's bytes are wrong",
    "input": "what a person wrote is wrong",
    "access": "who asks may not",
    "conflict": "somebody was faster",
}


def page() -> str:
    """Return the whole page."""
    branches = {each.code.partition(".")[0]: each for each in ShoalError.__subclasses__()}
    names = sorted(branches, key=list(_TITLES).index)
    return "\n".join([_HEAD, *(f"## {n}: {_TITLES[n]}\n\n{_table(branches[n])}" for n in names)])


def _table(branch: type[ShoalError]) -> str:
    rows = ["| code | means | what to do |", "|---|---|---|"]
    for kind in _with_children(branch):
        cells = (f"`{kind.code}`", _paragraphs(kind)[0], _advice(kind))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _with_children(kind: type[ShoalError]) -> Iterator[type[ShoalError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _with_children(child)


def _advice(kind: type[ShoalError]) -> str:
    """Return what the class itself says to do, or the nearest one above it that says so."""
    for each in kind.__mro__:
        if not issubclass(each, ShoalError):
            break
        if len(found := _paragraphs(each)) > 1:
            return found[1]
        if each.__dict__.get("default_hint"):
            return each.default_hint.replace("|", "\\|")
    raise LookupError(f"{kind.__name__} does not say what to do")


def _paragraphs(kind: type[ShoalError]) -> list[str]:
    """Return the docstring's paragraphs, one line each."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return [" ".join(each.split()).replace("|", "\\|") for each in text.split("\n\n")]


if __name__ == "__main__":
    sys.stdout.write(page())
