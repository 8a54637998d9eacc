"""Cutting files into content-addressed chunks and putting them together again.

Pure: bytes in, bytes out. Content that no manifest lists is named by one digest: its own where it
fits one chunk, else that of its index, which is a chunk as well.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
from msgspec import Meta

from firmware_bundles.errors import ChunkCorrupt, DigestMismatch, Malformed
from firmware_bundles.identifiers import Digest
from firmware_bundles.limits import CHUNK_BYTES_MAX, CHUNKS_PER_FILE_MAX, FILE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Chunk(NamedTuple):
    """A piece of a file under its SHA-256."""

    digest: str
    data: bytes


def digest_of(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def cut(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a file in order; each but the last has CHUNK_BYTES_MAX bytes."""
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES_MAX):
        piece = bytes(view[start : start + CHUNK_BYTES_MAX])
        yield Chunk(digest_of(piece), piece)


def digests_of(data: bytes) -> tuple[str, ...]:
    """Return the digests of the chunks of a file, in order; no chunk is copied."""
    view = memoryview(data)
    starts = range(0, len(data), CHUNK_BYTES_MAX)
    return tuple(digest_of(view[start : start + CHUNK_BYTES_MAX]) for start in starts)


def verify(digest: str, data: bytes) -> None:
    """Raise ChunkCorrupt unless `data` is the chunk called `digest`."""
    if len(data) > CHUNK_BYTES_MAX or digest_of(data) != digest:
        raise ChunkCorrupt(f"chunk {digest[:12]} arrived with other bytes than its name promises")


def join(digest: str, pieces: Iterable[bytes]) -> bytes:
    """Return the whole file. Raises DigestMismatch unless it has this digest."""
    data = b"".join(pieces)
    if digest_of(data) != digest:
        raise DigestMismatch(f"a file put together from chunks is not {digest[:12]}")
    return data


class ChunkIndex(msgspec.Struct, frozen=True, kw_only=True):
    """The chunks of content that is larger than one, in order."""

    length: Annotated[int, Meta(gt=CHUNK_BYTES_MAX, le=FILE_BYTES_MAX)]
    chunks: Annotated[tuple[Digest, ...], Meta(min_length=2, max_length=CHUNKS_PER_FILE_MAX)]


class Content(NamedTuple):
    """Content ready to be published: its one digest, and all chunks, the index with them."""

    digest: str
    chunks: tuple[Chunk, ...]


def pack(data: bytes) -> Content:
    """Return content cut into chunks, with an index if there are several."""
    pieces = tuple(cut(data))
    if len(pieces) == 1:
        return Content(pieces[0].digest, pieces)
    listed = ChunkIndex(length=len(data), chunks=tuple(piece.digest for piece in pieces))
    index = msgspec.json.encode(listed)
    return Content(digest_of(index), (*pieces, Chunk(digest_of(index), index)))


def needs_index(length: int) -> bool:
    """Return whether content of so many bytes is named by an index."""
    return length > CHUNK_BYTES_MAX


def parse_index(data: bytes, length: int) -> ChunkIndex:
    """Parse the index of content that should have `length` bytes. Raises Malformed."""
    try:
        index = msgspec.json.decode(data, type=ChunkIndex)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"an index of chunks cannot be read: {error}") from error
    if index.length != length or len(index.chunks) != -(-length // CHUNK_BYTES_MAX):
        raise Malformed(f"an index of {len(index.chunks)} chunks is not of {length} bytes")
    return index
