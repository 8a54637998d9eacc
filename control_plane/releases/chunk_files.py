"""Chunks on disk, each a file under its digest, which proves the content whoever put it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firmware_bundles import chunks, durable
from firmware_bundles.errors import ChunkMissing
from firmware_bundles.identifiers import Digest, parse

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class ChunkFiles:
    """The chunks in one folder."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def put(self, digest: str, data: bytes) -> bool:
        """Keep a chunk; False if it was there. Raises Malformed, ChunkCorrupt, OSError."""
        path = self._path(digest)
        chunks.verify(digest, data)
        if path.exists():
            return False
        durable.write(path, data)
        return True

    def get(self, digest: str) -> bytes:
        """Return a chunk. Raises Malformed, ChunkMissing, OSError."""
        try:
            return self._path(digest).read_bytes()
        except FileNotFoundError as error:
            raise ChunkMissing(f"chunk {digest[:12]} is not here") from error

    def remove(self, digest: str) -> None:
        """Forget a chunk that nothing names any more. Raises Malformed, OSError."""
        self._path(digest).unlink(missing_ok=True)

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Return those chunks that are not here, each once, in order. Raises Malformed."""
        return [digest for digest in dict.fromkeys(digests) if not self._path(digest).exists()]

    def _path(self, digest: str) -> Path:
        return self._directory / parse(Digest, digest, "chunk digest")
