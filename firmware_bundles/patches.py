"""Delta between two model files: the bytewise difference, compressed.

A patch says how a target file follows from a source file that the device has. The target is cut
into segments; each follows from the source bytes at some offset, or from nothing (it is then just
compressed). What the difference saves is measured by `./bench.sh patches`:

    patch      length of the header (2 bytes), header (MessagePack), difference (raw LZMA2)
    target[i]  = (difference[i] + source[segment offset + i]) mod 256

A retrained model keeps its layout, and most of its weights move by a step or not at all: the
difference is then zero or near it, where a search for equal blocks finds nothing. Subtraction, not
exclusive or: -1 and 0 differ by one, but in all of their bits.

A patch needs no signature: what it makes is verified against the signed manifest. How its bytes
travel stands in `chunks`.
"""

from __future__ import annotations

import hashlib
import lzma
from functools import cache
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, Protocol

import msgspec
from msgspec import Meta

from firmware_bundles import limits
from firmware_bundles.errors import PatchRefused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

SCHEMA: Final = 1
BLOCK_BYTES: Final = limits.CHUNK_BYTES_MAX
HEADER_BYTES_MAX: Final = 4096
SEGMENTS_MAX: Final = 64

_LENGTH_BYTES: Final = 2
_DIGEST_BYTES: Final = 32
# Part of the schema. The dictionary bounds the memory of whoever applies a patch; after the
# subtraction nothing far away repeats, so that a larger one saves nothing. Weights have one byte or
# four: lp = pb = 2 costs the former 0.1 % of the target and saves the latter 2 %.
_FILTERS: Final[list[dict[str, Any]]] = [
    {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": 2, "lp": 2, "pb": 2}
]
# Where the lengths differ, the blocks of this size at the front and at the end are compared.
_ALIGNED_BYTES: Final = 1024
_COMPARED_BYTES: Final = 1024 * _ALIGNED_BYTES
# A difference that stays above this share of the target is of files that have little in common.
_UNRELATED_SHARE: Final = 0.6

_Extent = Annotated[int, Meta(ge=0, le=limits.FILE_BYTES_MAX)]
_RawDigest = Annotated[bytes, Meta(min_length=_DIGEST_BYTES, max_length=_DIGEST_BYTES)]


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """A run of the target: its length, and the offset in the source that it follows from."""

    length: _Extent
    offset: _Extent | None


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What a patch is for. Unsigned: only what it makes is believed, after its digest."""

    schema: int
    source: _RawDigest
    target: _RawDigest
    target_length: _Extent
    segments: Annotated[tuple[Segment, ...], Meta(max_length=SEGMENTS_MAX)]


def create(source: bytes, target: bytes) -> bytes:
    """Return the patch that makes `target` from `source`, whatever they are.

    It may be longer than the target: whether it is worth its bytes is the caller's to judge. Takes
    about a second for each MiB.
    """
    patch = _patch(source, target, _aligned(source, target))
    if len(patch) > _UNRELATED_SHARE * len(target):
        patch = min(patch, _patch(source, target, (Segment(len(target), None),)), key=len)
    return patch


class Readable(Protocol):
    """What a patch is read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes, less only at the end."""


def apply(patch: Readable, source: BinaryIO, *, digest: str, length: int) -> Iterator[bytes]:
    """Yield the target in pieces of at most BLOCK_BYTES.

    `digest` and `length` are those of the signed manifest. Only when the iteration ends without an
    error was the whole target made. Memory is bounded whatever the patch says. Raises PatchRefused,
    OSError.
    """
    header = _read_header(patch)
    if (header.target.hex(), header.target_length) != (digest, length):
        raise PatchRefused(f"the patch makes {header.target.hex()[:12]}, not {digest[:12]}")
    difference = _Difference(patch)
    hashed = hashlib.sha256()
    for segment in header.segments:
        if segment.offset is not None:
            source.seek(segment.offset)
        for size in _blocks(segment.length):
            piece = difference.read(size)
            if segment.offset is not None:
                piece = _add(piece, _read(source, size))
            hashed.update(piece)
            yield piece
    difference.end()
    if hashed.hexdigest() != digest:
        raise PatchRefused(f"the patch did not make {digest[:12]}: it, or its source, is damaged")


class _Difference:
    """The difference of a patch, decompressed as far as it is asked for."""

    def __init__(self, patch: Readable) -> None:
        self._patch = patch
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises PatchRefused."""
        plain = b""
        while len(plain) < size:
            more = self._more(size - len(plain))
            if not more:
                raise PatchRefused("a patch is cut short")
            plain += more
        return plain

    def end(self) -> None:
        """Raise PatchRefused unless patch and difference end here."""
        if self._more(1) or self._stream.unused_data or self._patch.read(1):
            raise PatchRefused("a patch goes on behind its target")
        if not self._stream.eof:
            raise PatchRefused("a patch is cut short")

    def _more(self, size: int) -> bytes:
        """Return at least one and at most `size` bytes; none at the end."""
        plain = b""
        while not plain and not self._stream.eof:
            data = self._patch.read(BLOCK_BYTES) if self._stream.needs_input else b""
            if self._stream.needs_input and not data:
                break
            try:
                plain = self._stream.decompress(data, size)
            except lzma.LZMAError as error:
                raise PatchRefused(f"a patch cannot be decompressed: {error}") from error
        return plain


def _read_header(patch: Readable) -> Header:
    length = int.from_bytes(patch.read(_LENGTH_BYTES), "big")
    if not 0 < length <= HEADER_BYTES_MAX:
        raise PatchRefused(f"a patch has a header of {length} bytes")
    try:
        header = msgspec.msgpack.decode(patch.read(length), type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PatchRefused(f"a patch's header cannot be read: {error}") from error
    if header.schema != SCHEMA:
        raise PatchRefused(f"a patch has schema {header.schema}; this side reads {SCHEMA}")
    if sum(segment.length for segment in header.segments) != header.target_length:
        raise PatchRefused("the segments of a patch are not as long as its target")
    return header


def _read(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise PatchRefused("a patch refers to bytes behind the end of its source")
    return data


def _blocks(length: int) -> Iterator[int]:
    for start in range(0, length, BLOCK_BYTES):
        yield min(BLOCK_BYTES, length - start)


@cache
def _even_bytes() -> int:
    return int.from_bytes(b"\xff\x00" * (BLOCK_BYTES // 2), "little")


def _add(difference: bytes, source: bytes) -> bytes:
    """Return the bytewise sums mod 256: even and odd bytes apart, so that no carry is seen."""
    mask = _even_bytes()
    left, right = int.from_bytes(difference, "little"), int.from_bytes(source, "little")
    even = ((left & mask) + (right & mask)) & mask
    odd = ((left >> 8 & mask) + (right >> 8 & mask)) & mask
    total = even | odd << 8
    return (total & ((1 << 8 * len(source)) - 1)).to_bytes(len(source), "little")


def _patch(source: bytes, target: bytes, segments: tuple[Segment, ...]) -> bytes:
    header = msgspec.msgpack.encode(
        Header(
            schema=SCHEMA,
            source=hashlib.sha256(source).digest(),
            target=hashlib.sha256(target).digest(),
            target_length=len(target),
            segments=segments,
        )
    )
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=_FILTERS)
    body = [packer.compress(piece) for piece in _differences(source, target, segments)]
    return b"".join((len(header).to_bytes(_LENGTH_BYTES, "big"), header, *body, packer.flush()))


def _differences(source: bytes, target: bytes, segments: tuple[Segment, ...]) -> Iterator[bytes]:
    import numpy as np

    old, new = np.frombuffer(source, np.uint8), np.frombuffer(target, np.uint8)
    start = 0
    for length, offset in ((segment.length, segment.offset) for segment in segments):
        for place in range(0, length, _COMPARED_BYTES):
            size = min(_COMPARED_BYTES, length - place)
            piece = new[start + place : start + place + size]
            if offset is not None:
                piece = piece - old[offset + place : offset + place + size]
            yield piece.tobytes()
        start += length


def _aligned(source: bytes, target: bytes) -> tuple[Segment, ...]:
    """Return the segments of two files that differ in one place at most by a longer or shorter run.

    A converter that writes one more string shifts all that lies behind it: what is in front is
    aligned to the source's front, the rest to its end, wherever that leaves the least difference.
    """
    import numpy as np

    shared = min(len(source), len(target))
    old, new = np.frombuffer(source, np.uint8), np.frombuffer(target, np.uint8)
    front = _distances(old[:shared], new[:shared])
    back = _distances(old[len(old) - shared :], new[len(new) - shared :])
    if len(source) == len(target) or not len(front):
        split = shared
    else:
        costs = np.concatenate(([0], np.cumsum(front))) + np.concatenate(
            (np.cumsum(back[::-1])[::-1], [0])
        )
        split = min(int(np.argmin(costs)) * _ALIGNED_BYTES, shared)
    ends = (split, split + len(target) - shared, len(target))
    pieces = (
        Segment(ends[0], 0),
        Segment(ends[1] - ends[0], None),
        Segment(ends[2] - ends[1], len(source) - (len(target) - ends[1])),
    )
    return tuple(piece for piece in pieces if piece.length)


def _distances(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Return how far apart the bytes of each block are, in sum."""
    import numpy as np

    blocks = np.zeros(-(-len(new) // _ALIGNED_BYTES), np.int64)
    for place in range(0, len(new), _COMPARED_BYTES):
        piece = slice(place, place + _COMPARED_BYTES)
        distance = np.abs((new[piece] - old[piece]).view(np.int8).astype(np.int16))
        starts = np.arange(0, len(distance), _ALIGNED_BYTES)
        first = place // _ALIGNED_BYTES
        np.add.reduceat(distance, starts, out=blocks[first : first + len(starts)])
    return blocks
