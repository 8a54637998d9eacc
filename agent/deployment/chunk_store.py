"""Verified chunks on disk: those of expected files at their place in them, others by themselves.

A file that is being fetched is allocated at its full length before its first byte, so that a disk
without room says so at once. After a stop its places are read again: what hashes to the expected
digest is there. Which chunks are wanted, and where they come from, is decided by `downloads`.

    <directory>/<digest>             a chunk by itself, for instance a manifest
    <directory>/<digest>.part        an expected file, with the chunks that have arrived
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.deployment.slots import unwritable
from firmware_bundles import chunks, durable
from firmware_bundles.errors import ChunkCorrupt, DigestMismatch, StorageFull
from firmware_bundles.limits import CHUNK_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from firmware_bundles.manifest import FileEntry

SYNC_BYTES: Final = 4 * 1024 * 1024
# What an update leaves free for everything else on the disk.
RESERVE_BYTES: Final = 8 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024


class _Place(NamedTuple):
    """Where a chunk belongs in a file."""

    path: Path
    offset: int
    length: int


class ChunkStore:
    """The chunks under one folder. Its methods block, and may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        quota_bytes: int | None = None,
        sync_bytes: int = SYNC_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        on_written: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._directory = directory
        self._quota_bytes = quota_bytes
        self._sync_bytes = sync_bytes
        self._reserve_bytes = reserve_bytes
        self._lock = threading.RLock()
        self._expected: dict[Path, FileEntry] = {}
        self._places: dict[str, list[_Place]] = {}
        self._present: set[str] = set()
        self._unsynced: dict[Path, int] = {}
        self._on_written = on_written

    @property
    def directory(self) -> Path:
        """Where the chunks lie; a task may save some there, too."""
        return self._directory

    def expect(self, entries: Iterable[FileEntry]) -> None:
        """Allocate these files, and find out which of their chunks are there already.

        Raises StorageFull, before anything is written, if quota or disk cannot take them; else
        SlotUnwritable.
        """
        with self._lock:
            parts = {self._part(entry): entry for entry in entries}
            self._check_room({path: each for path, each in parts.items() if not path.exists()})
            for path, entry in parts.items():
                if path in self._expected and path.exists():
                    continue
                self._forget(path)
                with _translated(f"the download of {entry.name}"):
                    durable.make_directory(self._directory)
                    _allocate(path, entry.length)
                self._expect(path, entry)

    def look_again(self, entry: FileEntry) -> None:
        """Find out which chunks of an expected file somebody else put there."""
        with self._lock:
            for digest in dict.fromkeys(entry.chunks):
                if digest in self._places and digest not in self._present:
                    self._look_for(digest)

    def adopt(self, path: Path, entry: FileEntry) -> int:
        """Copy the chunks that `path`, described by `entry`, shares with expected files.

        Each is verified: the file may have changed. Returns how many bytes need not be fetched.
        """
        saved = 0
        for digest, place in _places(path, entry):
            if digest not in self._places or self.has(digest):
                continue
            with suppress(ChunkCorrupt, OSError):
                data = _read(place)
                self.save(digest, data)
                saved += len(data)
        return saved

    def has(self, digest: str) -> bool:
        """Return whether a whole chunk is there; a broken one is removed."""
        with self._lock:
            if digest in self._present:
                return True
            try:
                self._read_alone(digest)
            except ChunkCorrupt:
                with suppress(OSError):
                    (self._directory / digest).unlink()
                return False
            except OSError:
                return False
            return True

    def length(self, digest: str) -> int:
        """Return how many bytes a chunk of an expected file has; of others, the most it may."""
        with self._lock:
            places = self._places.get(digest)
            return places[0].length if places else CHUNK_BYTES_MAX

    def read(self, digest: str) -> bytes:
        """Return a chunk. Raises ChunkCorrupt or OSError."""
        with self._lock:
            if digest not in self._present:
                return self._read_alone(digest)
            data = _read(self._places[digest][0])
        chunks.verify(digest, data)
        return data

    def save(self, digest: str, data: bytes) -> None:
        """Verify a chunk, then keep it. Raises ChunkCorrupt, SlotUnwritable or StorageFull."""
        chunks.verify(digest, data)
        with self._lock, _translated(f"chunk {digest[:12]}"):
            places = self._places.get(digest, [])
            for place in places:
                self._write(place, data)
            if places:
                self._present.add(digest)
                return
            durable.make_directory(self._directory)
            durable.write(self._directory / digest, data)
            self._on_written(len(data))

    def sync(self) -> None:
        """Let all chunks survive a power cut. Raises SlotUnwritable or StorageFull."""
        with self._lock, _translated("the download"):
            for path in list(self._unsynced):
                self._sync(path)

    def take(self, entry: FileEntry, destination: Path) -> None:
        """Move an expected file to where it belongs, whole and on disk.

        Raises DigestMismatch if it is not whole: `expect` it again to learn what is missing.
        Raises OSError.
        """
        path = self._part(entry)
        with self._lock:
            try:
                if _digest(path) != entry.digest:
                    raise DigestMismatch(f"file {entry.name}, put together, is not whole")
                self._sync(path)
                path.replace(destination)
            finally:
                self._forget(path)

    def forget(self, digests: Iterable[str]) -> None:
        """Remove chunks that lie by themselves and are of no use any more."""
        with self._lock, suppress(OSError):
            for digest in digests:
                (self._directory / digest).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything: nothing is being fetched."""
        with self._lock:
            for path in list(self._expected):
                self._forget(path)
            with suppress(OSError):
                for file in self._directory.iterdir():
                    file.unlink(missing_ok=True)

    def _part(self, entry: FileEntry) -> Path:
        return self._directory / f"{entry.digest}.part"

    def _check_room(self, missing: dict[Path, FileEntry]) -> None:
        wanted = sum(entry.length for entry in missing.values())
        if not wanted:
            return
        kept = _bytes_in(self._directory)
        if self._quota_bytes is not None and kept + wanted > self._quota_bytes:
            raise StorageFull(
                f"the download needs {wanted} bytes beside {kept} kept ones; "
                f"its quota is {self._quota_bytes} bytes",
                hint="Raise download_bytes_max in the agent's settings.",
            )
        free = _free_bytes(self._directory)
        if wanted + self._reserve_bytes > free:
            raise StorageFull(
                f"the download needs {wanted} bytes, {self._reserve_bytes} more are in reserve, "
                f"and {free} are free",
                hint="Free space in the agent's state directory.",
            )

    def _expect(self, path: Path, entry: FileEntry) -> None:
        self._expected[path] = entry
        for digest, place in _places(path, entry):
            self._places.setdefault(digest, []).append(place)
        for digest in dict.fromkeys(entry.chunks):
            self._look_for(digest)

    def _look_for(self, digest: str) -> None:
        """Note a chunk that is anywhere on the disk, after putting it into all its places."""
        self._present.discard(digest)
        alone = _Place(self._directory / digest, 0, CHUNK_BYTES_MAX)
        for place in [*self._places[digest], alone]:
            with suppress(ChunkCorrupt, OSError):
                data = _read(place)
                chunks.verify(digest, data)
                for other in self._places[digest]:
                    if other != place:
                        self._write(other, data)
                self._present.add(digest)
                return

    def _forget(self, path: Path) -> None:
        entry = self._expected.pop(path, None)
        self._unsynced.pop(path, None)
        for digest in dict.fromkeys(entry.chunks) if entry else ():
            left = [place for place in self._places.pop(digest) if place.path != path]
            if left:
                self._places[digest] = left
            else:
                self._present.discard(digest)

    def _read_alone(self, digest: str) -> bytes:
        data = _read(_Place(self._directory / digest, 0, CHUNK_BYTES_MAX + 1))
        chunks.verify(digest, data)
        return data

    def _write(self, place: _Place, data: bytes) -> None:
        descriptor = os.open(place.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], place.offset + written)
        finally:
            os.close(descriptor)
        self._on_written(len(data))
        self._unsynced[place.path] = self._unsynced.get(place.path, 0) + len(data)
        if self._unsynced[place.path] >= self._sync_bytes:
            self._sync(place.path)

    def _sync(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._unsynced.pop(path, None)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(what, error) from error


def _places(path: Path, entry: FileEntry) -> Iterator[tuple[str, _Place]]:
    """Yield each chunk of a file with its place: all but the last have the full size."""
    for index, digest in enumerate(entry.chunks):
        offset = index * CHUNK_BYTES_MAX
        yield digest, _Place(path, offset, min(CHUNK_BYTES_MAX, entry.length - offset))


def _read(place: _Place) -> bytes:
    with place.path.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.length)


def _digest(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            hashed.update(piece)
    return hashed.hexdigest()


def _allocate(path: Path, length: int) -> None:
    """Make a file of this length whose blocks are all there; content that it has stays."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, length)
        os.ftruncate(descriptor, length)
        os.fsync(descriptor)
    except OSError:
        if is_new:
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    durable.sync_directory(path.parent)


def _bytes_in(directory: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(directory))
    except FileNotFoundError:
        return 0


def _free_bytes(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    facts = os.statvfs(directory)
    return facts.f_bavail * facts.f_frsize
