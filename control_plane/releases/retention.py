"""Which chunks the broker retains: the newest releases first, up to a limit of bytes. Pure.

A broker rewrites all that it retains whenever it saves, so this is capped. What is left out is not
lost: devices fetch it from the control plane over HTTPS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from firmware_bundles.limits import CHUNK_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from firmware_bundles.manifest import Manifest


class Piece(NamedTuple):
    """A chunk and its size in bytes."""

    digest: str
    size: int


class Choice(NamedTuple):
    """Chunks that are retained and chunks that are left out, each once, newest release first."""

    retained: tuple[Piece, ...] = ()
    left_out: tuple[Piece, ...] = ()


def pieces(digest: str, length: int, document: Manifest) -> Iterator[Piece]:
    """Yield the chunks of one release; `digest` and `length` are of its manifest, the first."""
    yield Piece(digest, length)
    for entry in document.files:
        for number, each in enumerate(entry.chunks):
            yield Piece(each, min(CHUNK_BYTES_MAX, entry.length - number * CHUNK_BYTES_MAX))


def choose(newest_first: Iterable[Iterable[Piece]], bytes_max: int) -> Choice:
    """Return which chunks of these releases are retained.

    From the first chunk on that finds no room, everything older is left out, so that what a device
    finds at the broker does not depend on how sizes happen to fit. A chunk that a newer release
    shares is retained for both.
    """
    retained: dict[str, Piece] = {}
    left_out: dict[str, Piece] = {}
    room = bytes_max
    for release in newest_first:
        for piece in release:
            if piece.digest in retained or piece.digest in left_out:
                continue
            if left_out or piece.size > room:
                left_out[piece.digest] = piece
            else:
                retained[piece.digest] = piece
                room -= piece.size
    return Choice(tuple(retained.values()), tuple(left_out.values()))


def bytes_of(some: Iterable[Piece]) -> int:
    """Return how many bytes these chunks have together."""
    return sum(piece.size for piece in some)
