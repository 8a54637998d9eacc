"""What the broker says, in a file that does not fill the disk: strangers can make it speak."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_BYTES_MAX: Final = 8 * 1024 * 1024
_TAIL_BYTES: Final = 4 * 1024
FORMER_SUFFIX: Final = ".1"


class LogFile:
    """Lines at `path`; beyond `bytes_max` a new file begins, and the one before is kept, once."""

    def __init__(self, path: Path, bytes_max: int = _BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max

    def append(self, line: bytes) -> None:
        """Add a line; where it cannot be written it is lost."""
        # A full disk must not end the one who waits for the broker.
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size >= self._bytes_max:
                self._path.replace(self._path.with_name(self._path.name + FORMER_SUFFIX))
            with self._path.open("ab", buffering=0) as file:
                file.write(line)

    def last(self) -> str:
        """Return the last line; empty without one."""
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode(errors="replace").splitlines()
            return lines[-1] if lines else ""
        return ""
