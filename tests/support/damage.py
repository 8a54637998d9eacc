"""What a bad disk does to a file, as data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final


def truncate(path: Path) -> None:
    """Half of it is gone."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path: Path) -> None:
    """Only its name is left."""
    path.write_bytes(b"")


def corrupt(path: Path) -> None:
    """As long as before, with other bytes in the middle and at the start."""
    data = bytearray(path.read_bytes())
    for place in {0, len(data) // 2} & set(range(len(data))):
        data[place] ^= 0x5A
    path.write_bytes(bytes(data))


def zero(path: Path) -> None:
    """As long as before, and nothing but zeros: what a journaling file system may leave."""
    path.write_bytes(bytes(path.stat().st_size))


def remove(path: Path) -> None:
    """It is gone."""
    path.unlink()


def obstruct(path: Path) -> None:
    """A folder lies where it was."""
    path.unlink()
    path.mkdir()


DAMAGES: Final[dict[str, Callable[[Path], None]]] = {
    each.__name__: each for each in (truncate, empty, corrupt, zero, remove, obstruct)
}
