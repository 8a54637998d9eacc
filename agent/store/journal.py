"""Append-only files of length-prefixed, checksummed records: what the worker answered, at once.

One record is one write call: it survives the process, and after `sync` a power cut. A torn tail is
recognised by its length or checksum, and nothing after it is read. What a record means is the
telemetry's affair; which part was moved to the buffer stands there, as a Position.

    journal-<incarnation>-<number>.log      record: uint32 length, uint32 CRC-32, payload
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from firmware_bundles import durable

RECORD_BYTES_MAX: Final = 16 * 1024 * 1024

_FRAME: Final = struct.Struct("<II")
_NAME: Final = re.compile(r"journal-([0-9a-f]{16})-([0-9]{6,12})\.log")
_DAMAGED: Final = ".damaged"
_DAMAGED_MAX: Final = 4


class Position(NamedTuple):
    """A place in the journal of one incarnation: file number and offset in bytes."""

    number: int = 1
    offset: int = 0


class Record(NamedTuple):
    """A payload, and where it ends: in which file, and how many bytes behind its begin."""

    payload: bytes
    number: int
    offset: int

    @property
    def end(self) -> Position:
        """The place just behind it."""
        return Position(self.number, self.offset)


class JournalFile(NamedTuple):
    """One file of a journal."""

    incarnation: str
    number: int
    path: Path


class Journal:
    """The journal that this process writes, of one incarnation."""

    def __init__(self, directory: Path, incarnation: str) -> None:
        self.bytes = 0  # of the present file
        self.number = 0
        self._directory = directory
        self._incarnation = incarnation
        self._descriptor = -1
        self._complete: list[int] = []
        self._is_new = True
        self.rotate()

    def append(self, payload: bytes) -> None:
        """Write one record. Raises OSError, and then nothing of it stays."""
        record = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            written = os.write(self._descriptor, record)
            if written != len(record):
                raise OSError("the record was written only in part")
        except OSError:
            os.ftruncate(self._descriptor, self.bytes)
            raise
        self.bytes += written

    def rotate(self) -> None:
        """Go on in a new file; the old one is complete, and closed by the next `sync`."""
        path = self._directory / f"journal-{self._incarnation}-{self.number + 1:06}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        if self._descriptor >= 0:
            self._complete.append(self._descriptor)
        self._descriptor, self.bytes = descriptor, 0
        self.number += 1
        self._is_new = True

    def sync(self) -> None:
        """Return when all that was appended before survives a power cut.

        May run in another thread than `append`, but never together with `rotate`.
        """
        while self._complete:
            os.fdatasync(self._complete[-1])
            os.close(self._complete.pop())
        os.fdatasync(self._descriptor)
        if self._is_new:
            durable.sync_directory(self._directory)
            self._is_new = False

    def close(self) -> None:
        """Sync, and close for good."""
        self.sync()
        os.close(self._descriptor)


def set_aside(file: JournalFile) -> int:
    """Rename a complete file that cannot be read to its end; return the bytes behind the last row.

    0 where it is whole, and nothing was done. Only the newest ones set aside are kept.
    """
    end = max((record.end.offset for record in read(file)), default=0)
    lost = file.path.stat().st_size - end
    if lost <= 0:
        return 0
    file.path.replace(file.path.with_name(file.path.name + _DAMAGED))
    kept = sorted(
        file.path.parent.glob(f"journal-*{_DAMAGED}"), key=lambda each: each.stat().st_mtime
    )
    for old in kept[:-_DAMAGED_MAX]:
        old.unlink(missing_ok=True)
    return lost


def files(directory: Path) -> list[JournalFile]:
    """Return all journal files of a folder, by incarnation and number."""
    matches = ((path, _NAME.fullmatch(path.name)) for path in directory.iterdir())
    return sorted(JournalFile(match[1], int(match[2]), path) for path, match in matches if match)


def read(file: JournalFile, offset: int = 0) -> Iterator[Record]:
    """Yield the whole records of a file from `offset` on, up to its end or a torn tail."""
    with file.path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    behind = offset
    offset = 0
    while (start := offset + _FRAME.size) <= len(data):
        length, checksum = _FRAME.unpack_from(data, offset)
        offset = start + length
        # Length zero is what a tail of zeros looks like, and its checksum would be right.
        if not 0 < length <= RECORD_BYTES_MAX or offset > len(data):
            return
        payload = data[start:offset]
        if zlib.crc32(payload) != checksum:
            return
        yield Record(payload, file.number, behind + offset)
