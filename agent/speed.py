"""The speed class of this device: measured once, and kept in the state directory.

A child process measures, `agent.inference.calibration`: the core loads no numpy. Another board
under the same state directory, for instance a card that moved, is measured anew.
"""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agent.inference.children import BARE_ENVIRONMENT, command
from firmware_bundles import durable
from firmware_bundles.limits import SPEED_CLASS_MAX

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME: Final = "speed_class"
_FILE_CHARS_MAX: Final = 256
_MEASURE: Final = command("calibration")
_MEASURE_S_MAX: Final = 20.0


def kept(state_dir: Path) -> int | None:
    """Return the class that was measured here; None before the first time."""
    try:
        with (state_dir / FILE_NAME).open(encoding="ascii") as file:
            board, _, number = file.read(_FILE_CHARS_MAX).partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return _number(number.strip()) if board == _board() else None


def measured(state_dir: Path) -> int | None:
    """Return the class, measured now if it never was; None where it cannot be. Blocks."""
    known = kept(state_dir)
    if known is None and (known := _measure()) is not None:
        with suppress(OSError):  # it is measured again before the next model
            durable.write(state_dir / FILE_NAME, f"{_board()}\n{known}\n".encode())
    return known


def _board() -> str:
    return f"{platform.machine()} {os.cpu_count()}"


def _measure() -> int | None:
    try:
        asked = subprocess.run(
            _MEASURE,
            capture_output=True,
            text=True,
            timeout=_MEASURE_S_MAX,
            check=True,
            env=BARE_ENVIRONMENT,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return _number(asked.stdout.strip())


def _number(text: str) -> int | None:
    is_class = text.isdecimal() and text.isascii() and int(text[:3]) <= SPEED_CLASS_MAX
    return int(text) if is_class and len(text) <= 2 else None  # noqa: PLR2004
