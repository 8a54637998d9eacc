"""The data folder of a control plane: held by one process at a time."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING, Final

from firmware_bundles.errors import ConfigInvalid

if TYPE_CHECKING:
    from pathlib import Path

# Made by the first process that holds the folder, and never removed.
LOCK: Final = "lock"


class Hold:
    """Holds a folder, making it if need be. Raises ConfigInvalid if another process does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = (self._directory / LOCK).open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigInvalid(
                f"another 'shoal serve' uses {self._directory}",
                hint="Stop it, or choose another --data.",
            ) from error

    def __exit__(self, *_: object) -> None:
        self._file.close()
