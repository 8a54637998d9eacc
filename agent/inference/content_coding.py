"""Content codings of bodies (RFC 9110, section 8.4): gzip and deflate, bounded. Pure.

`deflate` is the zlib format of RFC 1950, as the standard says; the bare stream of RFC 1951 that
some clients send under the same name is taken too.
"""

from __future__ import annotations

import zlib
from typing import Final

from agent.inference.refused import Refused

SUPPORTED: Final = b"gzip, deflate"

_GZIP: Final = 16 + zlib.MAX_WBITS
_BARE: Final = -zlib.MAX_WBITS
_LEVEL: Final = 1  # the receiver is near: time is worth more than bytes


def decode(body: bytes, coding: str, bytes_max: int) -> bytes:
    """Return the body without its coding, never making more than `bytes_max`. Raises Refused."""
    match coding:
        case "gzip" | "x-gzip":
            return _inflate(body, _GZIP, bytes_max)
        case "deflate":
            # RFC 1950, section 2.2: the first two bytes, as a number, are a multiple of 31.
            is_zlib = len(body) > 1 and body[0] & 15 == zlib.DEFLATED and not (
                int.from_bytes(body[:2], "big") % 31
            )  # fmt: skip
            return _inflate(body, zlib.MAX_WBITS if is_zlib else _BARE, bytes_max)
        case "identity" | "":
            return body
    raise Refused(
        415,
        f"the content coding {coding!r:.40} is unknown; use gzip or deflate, one only",
        b"accept-encoding: " + SUPPORTED + b"\r\n",
    )


def _inflate(body: bytes, window_bits: int, bytes_max: int) -> bytes:
    stream = zlib.decompressobj(window_bits)
    try:
        data = stream.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise Refused(400, f"the compressed body is damaged: {error}") from error
    if len(data) > bytes_max:
        raise Refused(413, f"the body is too large; at most {bytes_max} bytes are taken")
    if not stream.eof or stream.unused_data:
        raise Refused(400, "the compressed body is cut off, or something follows it")
    return data


def chosen(accept: bytes) -> str:
    """Return the coding that an Accept-Encoding allows for the answer, empty for none.

    The first of gzip and deflate that is named without a weight of zero.
    """
    for part in accept.decode("latin-1").lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in {"gzip", "deflate"} and not _is_zero(weight):
            return name.strip()
    return ""


def _is_zero(weight: str) -> bool:
    key, _, value = weight.strip().partition("=")
    return key.strip() == "q" and not value.strip().strip("0.")


def encode(body: bytes, coding: str) -> bytes:
    """Return the body in a coding that `chosen` gave."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP if coding == "gzip" else zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()
