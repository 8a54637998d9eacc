"""Cutting files into content-addressed chunks and putting them together again.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from firmware_bundles.errors import ChunkCorrupt, DigestMismatch
from firmware_bundles.limits import CHUNK_BYTES_MAX

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
