"""Append-only files of length-prefixed, checksummed records: what the worker answered, at once.

What is appended is one write call: it survives the process, and after `sync` a power cut. A torn
tail is recognised by its length or checksum, and nothing after it is read. What a record means is
the telemetry's affair; which part was moved to the buffer stands there, as a Position.

    journal-<incarnation>-<number>.log      record: uint32 length, uint32 CRC-32, payload
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final, NamedTuple

from firmware_bundles import durable

RECORD_BYTES_MAX: Final = 16 * 1024 * 1024

# Read at once; a record that is larger takes what it needs.
_BLOCK_BYTES: Final = 64 * 1024
_FRAME: Final = struct.Struct("<II")
FRAME_BYTES: Final = _FRAME.size
_NAME: Final = re.compile(r"journal-([0-9a-f]{16})-([0-9]{6,12})\.log")
_DAMAGED: Final = ".damaged"
_DAMAGED_MAX: Final = 4


class Position(NamedTuple):
    """A place in the journal of one incarnation: file number and offset in bytes."""

    number: int = 1
    offset: int = 0


class Block(NamedTuple):
    """Whole records that were read together, one behind the other; never without one.

    `ends` are where they end in `data`, which begins `offset` bytes behind the begin of file
    `number`; the first of them begins at `begin`. Before each payload stand FRAME_BYTES.
    """

    data: bytes
    begin: int
    ends: list[int]
    number: int
    offset: int

    @property
    def end(self) -> Position:
        """The place just behind its last record."""
        return Position(self.number, self.offset + self.ends[-1])

    def payloads(self) -> Iterator[bytes]:
        """Yield what was appended, one after the other."""
        bounds = pairwise([self.begin, *self.ends])
        return (self.data[begin + FRAME_BYTES : end] for begin, end in bounds)

    def until(self, end: Position) -> Block | None:
        """Return its records up to a place, None if there are none."""
        if end.number != self.number:
            return self if end.number > self.number else None
        count = bisect_right(self.ends, end.offset - self.offset)
        return self.split(count)[0] if count else None

    def split(self, count: int) -> tuple[Block, Block | None]:
        """Return the first `count` records, and the rest if there is one."""
        if count >= len(self.ends):
            return self, None
        rest = self._replace(begin=self.ends[count - 1], ends=self.ends[count:])
        return self._replace(ends=self.ends[:count]), rest


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

    def append(self, *payloads: bytes) -> int:
        """Write records by one call; return how many of them stay, the first ones.

        Fewer than all where the disk gets full. Raises OSError, and then nothing of them stays.
        """
        pack, checksum = _FRAME.pack, zlib.crc32
        records = [pack(len(each), checksum(each)) + each for each in payloads]
        data = b"".join(records)
        written = os.write(self._descriptor, data)
        if written != len(data):
            return self._keep_whole(records, written)
        self.bytes += written
        return len(records)

    def _keep_whole(self, records: list[bytes], written: int) -> int:
        """Cut off a torn record. Whole ones stay: another thread may have read them already."""
        ends = list(accumulate(map(len, records)))
        kept = bisect_right(ends, written)
        whole = ends[kept - 1] if kept else 0
        os.ftruncate(self._descriptor, self.bytes + whole)
        if not kept:
            raise OSError("no record was written as a whole")
        self.bytes += whole
        return kept

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
    end = max((block.end.offset for block in read(file)), default=0)
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


def read(file: JournalFile, offset: int = 0) -> Iterator[Block]:
    """Yield the whole records of a file from `offset` on, up to its end or a torn tail.

    What is appended after the first block was asked for may be missing.
    """
    with file.path.open("rb") as stream:
        left = max(0, os.fstat(stream.fileno()).st_size - offset)
        stream.seek(offset)
        data, wanted = b"", _BLOCK_BYTES
        while left and (more := stream.read(min(wanted, left))):
            left -= len(more)
            data += more
            walked = _walk(data)
            if walked.ends:
                yield Block(data, 0, walked.ends, file.number, offset)
                offset += walked.ends[-1]
                data = data[walked.ends[-1] :]
            if walked.is_torn:
                return
            wanted = max(_BLOCK_BYTES, walked.lacking)


def parts(blocks: Iterable[Block], most: int) -> Iterator[list[Block]]:
    """Yield the records of all blocks, `most` in each part but the last, which may be empty."""
    part: list[Block] = []
    room = most
    for block in blocks:
        rest: Block | None = block
        while rest is not None:
            head, rest = rest.split(room)
            part.append(head)
            room -= len(head.ends)
            if not room:
                yield part
                part, room = [], most
    yield part


class _Walked(NamedTuple):
    """Where whole records end; how many bytes the next one lacks, or that it cannot be believed."""

    ends: list[int]
    lacking: int = 0
    is_torn: bool = False


def _walk(data: bytes) -> _Walked:
    ends: list[int] = []
    unpack, crc32 = _FRAME.unpack_from, zlib.crc32  # this loop is half of what reading costs
    end, size = 0, len(data)
    while (start := end + FRAME_BYTES) <= size:
        length, checksum = unpack(data, end)
        # Length zero is what a tail of zeros looks like, and its checksum would be right.
        if not 0 < length <= RECORD_BYTES_MAX:
            return _Walked(ends, is_torn=True)
        end = start + length
        if end > size:
            return _Walked(ends, lacking=end - size)
        if crc32(data[start:end]) != checksum:
            return _Walked(ends, is_torn=True)
        ends.append(end)
    return _Walked(ends)
