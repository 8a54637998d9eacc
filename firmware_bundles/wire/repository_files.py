"""How large a file of the models repository may be, and how one larger than a message travels.

It is cut into chunks behind an index. The index is not signed: whoever forges it can delay the
file, and the role's signature is checked over what was joined. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from firmware_bundles import chunks, limits
from firmware_bundles.errors import Malformed, MessageTooLarge
from firmware_bundles.wire.messages import FileIndex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firmware_bundles.chunks import Chunk

_ROLE_BYTES_MAX: Final = {
    "root": limits.ROOT_BYTES_MAX,
    "timestamp": limits.TIMESTAMP_BYTES_MAX,
    "snapshot": limits.SNAPSHOT_BYTES_MAX,
}


class Cut(NamedTuple):
    """A file as it travels."""

    listing: FileIndex
    pieces: tuple[Chunk, ...]


def bytes_max(name: str) -> int:
    """Return how many bytes the repository file of this name may have."""
    if not name.endswith(".json") or "/" in name:
        return limits.REPOSITORY_FILE_BYTES_MAX
    version, dot, role = name.removesuffix(".json").partition(".")
    return _ROLE_BYTES_MAX.get(role if dot else version, limits.TARGETS_BYTES_MAX)


def is_fixed(name: str) -> bool:
    """Return whether the bytes under this name never change, for its version is in it."""
    version, dot, _ = name.partition(".")
    return bool(dot) and version.isascii() and version.isdigit()


def cut(data: bytes) -> Cut | None:
    """Return index and chunks of a file, or None for one that fits a message."""
    if len(data) <= limits.REPOSITORY_FILE_BYTES_MAX:
        return None
    pieces = tuple(chunks.cut(data))
    return Cut(FileIndex(length=len(data), chunks=tuple(piece.digest for piece in pieces)), pieces)


def check(name: str, index: FileIndex) -> None:
    """Raise before anything is fetched unless the index fits the file that it stands for.

    Raises MessageTooLarge, Malformed.
    """
    if index.length > bytes_max(name):
        raise MessageTooLarge(
            f"the index of {name!r:.80} promises {index.length} bytes; "
            f"at most {bytes_max(name)} are allowed"
        )
    if len(index.chunks) != -(-index.length // limits.CHUNK_BYTES_MAX):
        raise Malformed(
            f"the index of {name!r:.80} lists {len(index.chunks)} chunks for {index.length} bytes"
        )


def join(name: str, index: FileIndex, pieces: Iterable[bytes]) -> bytes:
    """Return the file, put together from verified chunks. Raises Malformed."""
    data = b"".join(pieces)
    if len(data) != index.length:
        raise Malformed(
            f"the chunks of {name!r:.80} have {len(data)} bytes; its index promises {index.length}"
        )
    return data
