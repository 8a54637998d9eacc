"""Other programs that do a part of our work: found, told, or how to get them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


class Missing(Exception):
    """A peer is not installed; the text is the command that installs it."""


def require(program: str, packages: str) -> str:
    """Return the path of a program. Raises Missing."""
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
    if found is None:
        raise Missing(f"not installed: apt-get install {packages}")
    return found


def version(*command: str) -> str:
    """Return the first line that a program says of its version."""
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (said.stdout or said.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def run(*command: str | Path) -> None:
    """Run a program to its end; what it says counts only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
