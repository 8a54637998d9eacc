"""Applying one patch, in a task: the file it makes goes chunk by chunk into the store.

Each chunk is verified against the signed manifest before it is kept, the whole file at the end. A
stop at any time leaves whole chunks in the file that the core expects, which looks there again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.deployment.chunk_store import ChunkStore
from firmware_bundles import patches
from firmware_bundles.limits import CHUNK_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.task_messages import ApplyPatch


def make(request: ApplyPatch) -> int:
    """Return how many bytes were made that the store did not have.

    Raises PatchRefused, ChunkCorrupt, SlotUnwritable, StorageFull, OSError.
    """
    target = request.target
    store = ChunkStore(Path(request.chunks_dir), reserve_bytes=0)
    store.expect([target])
    made = 0
    patch = _Joined(map(store.read, request.patch))
    with Path(request.source).open("rb") as source:
        pieces = patches.apply(patch, source, digest=target.digest, length=target.length)
        for digest, data in zip(target.chunks, _regrouped(pieces), strict=True):
            if not store.has(digest):
                store.save(digest, data)
                made += len(data)
    store.sync()
    return made


class _Joined:
    """The chunks of a patch, read as one."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes, less only at the end. Raises ChunkCorrupt, OSError."""
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _regrouped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in the sizes of chunks."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= CHUNK_BYTES_MAX:
            yield bytes(waiting[:CHUNK_BYTES_MAX])
            del waiting[:CHUNK_BYTES_MAX]
    if waiting:
        yield bytes(waiting)
