"""A real file system of a few megabytes in memory, for tests of a full disk; needs root (mount(2)).

Where it cannot be mounted the test that wants it is skipped, or fails under `--require-all`
(`programs`): a quota that is only pretended proves nothing about a disk.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(bytes_max: int) -> Iterator[Path]:
    """Mount a file system with room for so many bytes. Raises PermissionError where it cannot."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-"))
    options = f"size={bytes_max},mode=0755"
    words = ["mount", "-t", "tmpfs", "-o", options, "shoal-test", str(folder)]
    found = shutil.which("mount")
    if found is None or subprocess.run(words, capture_output=True, check=False).returncode:
        folder.rmdir()
        raise PermissionError("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        folder.rmdir()


@functools.cache
def is_possible() -> bool:
    """Whether this process may mount one."""
    try:
        with mounted(2**20):
            return True
    except PermissionError:
        return False


def free_bytes(folder: Path) -> int:
    """How much still fits."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def fill(folder: Path, *, leave: int) -> Path:
    """Take all the room but `leave` bytes; returns the file that holds it."""
    path = folder / "in-the-way"
    with path.open("wb") as file:
        file.write(b"\0" * max(0, free_bytes(folder) - leave))
    return path
