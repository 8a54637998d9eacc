"""A file of nothing that lies beside the buffer, so that a full disk can always be freed.

On a full disk SQLite can neither delete nor checkpoint, for both write to its log first. What the
ballast took is room for that. It is made again once there is room.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

BYTES: Final = 2 * 1024 * 1024  # more than the log may have, and what a deletion adds to it
_SUFFIX: Final = ".ballast"


def path_of(database: Path) -> Path:
    """Return where the ballast of a database lies."""
    return database.with_name(database.name + _SUFFIX)


def lay(database: Path) -> bool:
    """Lay the ballast if it does not lie there whole; return whether it does now."""
    path = path_of(database)
    with suppress(OSError):
        if path.stat().st_size == BYTES:
            return True
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, BYTES)
        finally:
            os.close(descriptor)
    except OSError:
        drop(database)  # half a ballast would only be in the way
        return False
    return True


def drop(database: Path) -> bool:
    """Give the room back; return whether there was any."""
    try:
        path_of(database).unlink()
    except OSError:
        return False
    return True
