"""zlib with a bound on what comes out: a small message must not become a large one."""

from __future__ import annotations

import zlib

from firmware_bundles.errors import Malformed

_LEVEL = 6


def deflate(data: bytes) -> bytes:
    """Return `data` as a zlib stream (RFC 1950)."""
    return zlib.compress(data, _LEVEL)


def inflate(data: bytes, bytes_max: int, what: str) -> bytes:
    """Return what `data` holds; `what` names it in the error.

    Raises Malformed unless it is exactly one whole zlib stream of at most `bytes_max` bytes.
    """
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise Malformed(f"{what} cannot be decompressed: {error}") from error
    if len(plain) > bytes_max:
        raise Malformed(f"{what} has more than {bytes_max} bytes when decompressed")
    if not stream.eof or stream.unused_data:
        raise Malformed(f"{what} is cut short, or something follows it")
    return plain
