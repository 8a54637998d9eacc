"""Cuts the power of the store and file layer of a device at its n-th operation, in this process.

Every call that changes a file or makes it durable counts, and so does every transaction of a
database. From the cut on each of them raises `Cut`, so that no clean-up can still change the disk.
With `loses` the disk then forgets, as a real one may, all that was not synced: contents without
fsync, names without fsync of their folder. SQLite's own syncing is taken on trust (FULL).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

_WRITING = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "ALTER", "CREATE")


class Cut(BaseException):
    """The power is gone."""


class Power:
    """The supply of everything below `root`; `cut_at` is the operation before which it ends."""

    def __init__(self, root: Path, *, cut_at: int | None = None, loses: bool = False) -> None:
        self.root = root
        self.operations = 0
        self.is_off = False
        self._cut_at = cut_at
        self._loses = loses
        self._turn = threading.RLock()
        # What the disk holds for certain: contents by inode, names by folder.
        self._contents: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        self._folders: dict[int, Path] = {}

    @contextmanager
    def supplied(self) -> Iterator[None]:
        """Count, and cut, what happens inside; then let the disk forget what it may."""
        self._remember_all()
        with (
            mock.patch.object(os, "fsync", self._counted(os.fsync, after=self._synced)),
            mock.patch.object(os, "fdatasync", self._counted(os.fdatasync, after=self._synced)),
            mock.patch.object(os, "write", self._counted(os.write)),
            mock.patch.object(os, "pwrite", self._counted(os.pwrite)),
            mock.patch.object(os, "ftruncate", self._counted(os.ftruncate)),
            mock.patch.object(os, "posix_fallocate", self._counted(os.posix_fallocate)),
            mock.patch.object(os, "fchmod", self._counted(os.fchmod)),
            mock.patch.object(tempfile, "mkstemp", self._counted(tempfile.mkstemp)),
            mock.patch.object(shutil, "rmtree", self._counted(shutil.rmtree)),
            mock.patch.object(Path, "replace", self._counted(Path.replace)),
            mock.patch.object(Path, "unlink", self._counted(Path.unlink)),
            mock.patch.object(Path, "mkdir", self._counted(Path.mkdir)),
            mock.patch.object(sqlite3, "connect", self._connect(sqlite3.connect)),
        ):
            yield
        if self.is_off and self._loses:
            self._forget()

    def _tick(self) -> None:
        with self._turn:
            if self.is_off or self.operations == self._cut_at:
                self.is_off = True
                raise Cut
            self.operations += 1

    def _tick_database(self) -> None:
        self._tick()

    def _counted(
        self, function: Callable[..., Any], after: Callable[..., None] | None = None
    ) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - stands for any call
            if not self._is_ours(args):
                return function(*args, **options)
            self._tick()
            result = function(*args, **options)
            if after is not None:
                after(*args)
            return result

        return counted

    def _is_ours(self, args: tuple[Any, ...]) -> bool:
        """Descriptors of sockets and pipes belong to the event loop."""
        if args and isinstance(args[0], int):
            mode = os.fstat(args[0]).st_mode
            return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        return True

    def _connect(self, connect: Callable[..., Any]) -> Callable[..., Any]:
        power = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # noqa: ANN401
                if sql.lstrip().upper().startswith(_WRITING):
                    power._tick_database()
                elif power.is_off:
                    raise Cut
                return super().execute(sql, *args)

        return lambda *args, **options: connect(*args, factory=Connection, **options)

    def _remember_all(self) -> None:
        for folder, _, files in os.walk(self.root):
            self._remember_folder(Path(folder))
            for name in files:
                path = Path(folder, name)
                self._contents[path.stat().st_ino] = path.read_bytes()

    def _synced(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        with self._turn:
            if path.is_dir():
                self._remember_folder(path)
            elif path.is_file():
                self._contents[path.stat().st_ino] = path.read_bytes()

    def _remember_folder(self, folder: Path) -> None:
        self._folders[folder.stat().st_ino] = folder
        with os.scandir(folder) as entries:
            self._names[folder] = {entry.name: entry.inode() for entry in entries}

    def _forget(self) -> None:
        """Put the tree back to what was synced; databases keep what SQLite synced."""
        kept = {path.name: path.read_bytes() for path in self.root.glob("*.db*")}
        names = dict(self._names)
        for path in self.root.iterdir():
            _remove(path)
        self._restore(self.root, names)
        for name, data in kept.items():
            (self.root / name).write_bytes(data)

    def _restore(self, folder: Path, names: dict[Path, dict[str, int]]) -> None:
        for name, inode in names.get(folder, {}).items():
            path = folder / name
            if path in names and self._folders.get(inode) == path:
                path.mkdir()
                self._restore(path, names)
            elif inode in self._contents:
                path.write_bytes(self._contents[inode])
            elif inode in self._folders:
                path.mkdir()
            else:
                path.write_bytes(b"")  # the name was synced, what it names was not


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
