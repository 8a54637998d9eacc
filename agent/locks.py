"""One process at a time: locks that end with their holder, however it ends (flock(2))."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from firmware_bundles.errors import DeviceError

AGENT_LOCK: Final = "lock"  # in the agent's state directory

_LOOK_S: Final = 0.01


def hold(path: Path, what: str, *, patience_s: float = 0.0) -> int:
    """Lock the file at `path`, made where it is missing, and return its descriptor.

    Raises DeviceError when another process holds it for longer than `patience_s`; `what` names
    that process in the sentence. Raises OSError when the file cannot be made.
    """
    ends = time.monotonic() + patience_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= ends:
                os.close(descriptor)
                raise DeviceError(
                    f"another {what} uses {path.parent}",
                    hint=f"Stop the other {what} first, or use another folder.",
                ) from error
            time.sleep(_LOOK_S)
        else:
            return descriptor
