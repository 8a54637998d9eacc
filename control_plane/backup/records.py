"""What stands in a backup: a description, then files under names from a closed list.

A name that is not on the list never reaches the disk, so no backup can write outside its folder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from firmware_bundles.errors import BackupUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE: Final = "shoal.db"
SETTINGS: Final = "settings.toml"
KEYS: Final = "keys"
AUTHORITY: Final = "ca"
CHUNKS: Final = "chunks"
SMALL_BYTES_MAX: Final = 1 << 20
_DESCRIPTION: Final = "description"
_HEADER_LENGTH_BYTES: Final = 2
_PIECE_BYTES: Final = 1 << 20
_SMALL: Final = re.compile(
    r"settings\.toml|keys/[a-z]{1,32}(\.next)?\.pem|ca/(root|issuing)\.(pem|key)"
)
_CHUNK: Final = re.compile(r"chunks/[0-9a-f]{64}")


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself; `created` in Unix seconds, `roles` the version of each role.

    `schema` is the newest migration that the database has seen.
    """

    id: str
    created: float
    version: str
    schema: str
    devices: int
    releases: int
    roles: dict[str, int]
    has_root_key: bool
    files: int
    bytes: int


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The head of one file."""

    name: str
    length: int


class Sink(Protocol):
    """Takes bytes."""

    def write(self, data: bytes) -> object:
        """Take some."""


class Source(Protocol):
    """Gives bytes, exactly as many as are asked for."""

    @property
    def is_at_end(self) -> bool:
        """Whether there are no more."""

    def read(self, length: int) -> bytes:
        """Return so many."""


def is_small(name: str) -> bool:
    """Whether a name is one of a key, a certificate or the settings."""
    return _SMALL.fullmatch(name) is not None


def chunk_name(digest: str) -> str:
    """Return the name under which a chunk is kept."""
    return f"{CHUNKS}/{digest}"


def write_description(sink: Sink, description: Description) -> None:
    """Write the beginning of a backup."""
    body = msgspec.json.encode(description)
    write_head(sink, Record(name=_DESCRIPTION, length=len(body)))
    sink.write(body)


def write_head(sink: Sink, record: Record) -> None:
    """Write the head of a file; exactly `length` bytes must follow."""
    head = msgspec.json.encode(record)
    sink.write(len(head).to_bytes(_HEADER_LENGTH_BYTES, "big") + head)


def read_description(source: Source) -> Description:
    """Return what a backup says of itself. Raises BackupUnreadable."""
    record = _read_head(source)
    if record.name != _DESCRIPTION or not 0 <= record.length <= SMALL_BYTES_MAX:
        raise BackupUnreadable("the backup does not begin with its description")
    try:
        return msgspec.json.decode(source.read(record.length), type=Description)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BackupUnreadable(f"the backup's description cannot be read: {error}") from error


def read_records(source: Source) -> Iterator[tuple[Record, Iterator[bytes]]]:
    """Give each file with its bytes in pieces, which must be used up before the next.

    Raises BackupUnreadable.
    """
    while not source.is_at_end:
        record = _read_head(source)
        _check(record)
        yield record, _pieces(source, record.length)


def _read_head(source: Source) -> Record:
    length = int.from_bytes(source.read(_HEADER_LENGTH_BYTES), "big")
    try:
        return msgspec.json.decode(source.read(length), type=Record)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BackupUnreadable(
            f"the head of a file in the backup cannot be read: {error}"
        ) from error


def _check(record: Record) -> None:
    is_known = record.name == DATABASE or is_small(record.name) or _CHUNK.fullmatch(record.name)
    if not is_known:
        raise BackupUnreadable(f"the backup holds {record.name!r:.80}, which no backup has")
    if record.length < 0 or (record.name != DATABASE and record.length > SMALL_BYTES_MAX):
        raise BackupUnreadable(f"{record.name:.80} in the backup has {record.length} bytes")


def _pieces(source: Source, length: int) -> Iterator[bytes]:
    while length:
        piece = source.read(min(length, _PIECE_BYTES))
        length -= len(piece)
        yield piece
