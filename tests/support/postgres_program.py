"""Where PostgreSQL's server is, and whom it may run as: never as root, which it refuses to."""

from __future__ import annotations

import os
import pwd
import shutil
from contextlib import suppress
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")
_USERS = ("postgres", "nobody")


def find() -> str | None:
    """Return the server's program, or None where there is none, or nobody to run it as."""
    if os.geteuid() == 0 and user() is None:
        return None
    # Debian's stand beside each other by version, out of the way of PATH.
    versions = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda each: int(each.parts[-3]))
    return str(versions[-1]) if versions else shutil.which("postgres")


def user() -> pwd.struct_passwd | None:
    """Return whom root may run it as."""
    for name in _USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    return None
