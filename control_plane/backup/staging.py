"""A folder of one's own beside what is worked on: private, emptied before use, removed after."""

from __future__ import annotations

import fcntl
import os
import shutil
from typing import TYPE_CHECKING

from firmware_bundles.errors import ConflictError

if TYPE_CHECKING:
    from pathlib import Path


class Staging:
    """A context manager that gives an empty folder at `path`; what a killed run left is removed.

    Raises ConflictError if another process works there now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._held = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._held)
            raise ConflictError(
                f"another backup or restore works in {self._path}", hint="Wait for its end."
            ) from error
        for entry in self._path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._held)
