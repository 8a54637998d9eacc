"""What simulated devices hold of releases: each chunk's bytes once for all, who has it for each."""

from __future__ import annotations

from collections.abc import Iterable

from firmware_bundles import chunks

Library = dict[str, bytes]


class Contents:
    """The chunk store of one device, as `agent.deployment.downloads` uses one."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._present: set[str] = set()
        self._lengths: dict[str, int] = {}

    def expect(self, lengths: dict[str, int], held: Iterable[str]) -> None:
        """Learn how long chunks are, and which of them the slots hold already."""
        self._lengths |= lengths
        self._present |= set(held)

    def has(self, digest: str) -> bool:
        """Whether this device has a chunk."""
        return digest in self._present

    def length(self, digest: str) -> int:
        """Return how many bytes a chunk has."""
        return self._lengths.get(digest, 0)

    def save(self, digest: str, data: bytes) -> None:
        """Verify a chunk, as each device does, and keep it. Raises ChunkCorrupt."""
        chunks.verify(digest, data)
        self._library.setdefault(digest, data)
        self._present.add(digest)

    def read(self, digest: str) -> bytes:
        """Return a chunk. Raises FileNotFoundError."""
        if digest not in self._present:
            raise FileNotFoundError(digest)
        return self._library[digest]

    def forget(self, digests: Iterable[str]) -> None:
        """Remove chunks."""
        self._present -= set(digests)

    def clear(self) -> None:
        """Remove everything: it lies in the slots."""
        self._present.clear()
        self._lengths.clear()
