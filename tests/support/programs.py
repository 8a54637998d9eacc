"""System programs that some tests need: where they are and which Debian package brings them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from support import postgres_program, service_manager, small_disk

# The program's name -> its Debian package.
PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "gcc": "gcc libc6-dev",
    "mosquitto": "mosquitto",
    "mount": "mount",
    "postgres": "postgresql",
    "setpriv": "util-linux",
    "systemd-analyze": "systemd",
}

# Daemons live where an ordinary user's PATH does not look.
_DAEMON_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# The interpreter of the second environment, which scripts/environment.sh makes.
TFLITE_PYTHON = ".venv-tflite/bin/python"


def find(program: str) -> str | None:
    """The path of a program, or None if this machine lacks it or it may not do its work here."""
    if program == "mount" and not small_disk.is_possible():
        return None
    if program == "setpriv" and service_manager.missing():
        return None
    if program == "postgres":
        return postgres_program.find()
    if program == TFLITE_PYTHON:
        return shutil.which(Path(__file__).parents[2] / program)
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(_DAEMON_DIRECTORIES))


def how_to_get(program: str) -> str:
    """The command that installs a program; KeyError if no test may need such a program."""
    if program == TFLITE_PYTHON:
        return "./test.sh makes it where a Python 3.11 is"
    rights = ", and run the tests as root" if program in {"mount", "setpriv"} else ""
    return f"sudo apt-get install {PACKAGES[program]}{rights}"
