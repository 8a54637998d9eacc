"""Bodies of answers over HTTP, read no further and no longer than may be. Heavy (httpx), for tasks.

They are taken as they were sent: what is small on the line could be large once unpacked.
"""

from __future__ import annotations

import time
from typing import Final

import httpx

# For requests: nothing shall come packed.
AS_IT_IS: Final = {"Accept-Encoding": "identity"}


def read(response: httpx.Response, bytes_max: int, s_max: float) -> bytes:
    """Return the body of a streamed response; one byte more than `bytes_max` of a longer one.

    Raises httpx.HTTPError, also when it is not whole after `s_max` seconds.
    """
    until, body = time.monotonic() + s_max, bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > bytes_max:
            break
        if time.monotonic() > until:
            raise httpx.ReadTimeout(f"the answer took longer than {s_max:g} s")
    return bytes(body[: bytes_max + 1])
