"""Pages of the documentation as scripts: what they tell a person to type is typed here.

Fenced `console` blocks are run in order, each in a shell of its own; a line of a block begins with
`$ ` or goes on after a backslash, all others show output. `<!-- then: WORD ... -->`, which readers
do not see, calls a test's hook for what no command does: a fire, a restart.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_STEP = re.compile(
    r"^```console\n(?P<block>.*?)^```$|^<!-- then: (?P<hook>[^>]+?) -->$", re.DOTALL | re.MULTILINE
)
# Tokens that a command printed stand in for these in all that follows.
_TOKENS = {"enrol_...": r"enrol_[0-9a-f]{10}_[0-9a-f]{64}", "shoal_...": r"shoal_[0-9a-f]{10}_\w+"}
_BLOCK_S_MAX = 120


class Step(NamedTuple):
    """A shell script, or the words of a hook."""

    script: str = ""
    hook: tuple[str, ...] = ()


class Shell(NamedTuple):
    """Where and how commands run; `replace` puts this installation's words for the page's.

    It is looked up at each step, in its order, so that a hook may change it.
    """

    directory: Path
    environment: Mapping[str, str]
    replace: Mapping[str, str]
    hooks: Mapping[str, Callable[..., None]]


def steps(page: Path) -> list[Step]:
    """Return what a page makes its reader do, in order."""
    found = []
    for match in _STEP.finditer(page.read_text()):
        if match["hook"]:
            found.append(Step(hook=tuple(match["hook"].split())))
        elif script := commands(match["block"]):
            found.append(Step(script=script))
    return found


def commands(block: str) -> str:
    """Return the commands of a console block, without what they print."""
    lines: list[str] = []
    goes_on = False
    for line in block.splitlines():
        if goes_on or line.startswith("$ "):
            lines.append(line if goes_on else line[2:])
            goes_on = line.endswith("\\")
    return "\n".join(lines)


def follow(page: Path, shell: Shell) -> str:
    """Do all that a page says; returns what was printed. Raises AssertionError at a failure."""
    printed = ""
    made: dict[str, str] = {}
    for step in steps(page):
        if step.hook:
            shell.hooks[step.hook[0]](*step.hook[1:])
            continue
        script = step.script
        for word, own in {**shell.replace, **made}.items():
            script = script.replace(word, own)
        said = _run(script, shell)
        for word, pattern in _TOKENS.items():
            if found := re.findall(pattern, said):
                made[word] = found[-1]
        printed += said
    return printed


def _run(script: str, shell: Shell) -> str:
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=shell.directory,
        env=dict(shell.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_BLOCK_S_MAX,
    )
    assert ended.returncode == 0, f"{script}\nended with {ended.returncode}:\n{ended.stdout}"
    return ended.stdout
