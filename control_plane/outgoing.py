"""Requests to servers of others: each ends in its time, and reads no more than may come.

The time limits of a client hold for a single read: who trickles would hold up whoever waits.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

_AS_IT_IS: Final = {"Accept-Encoding": "identity"}


class Answer(NamedTuple):
    """Status and body, as it was sent; of one that is too long a byte more than may come."""

    status: int
    body: bytes


def post(
    url: str,
    content: bytes,
    headers: Mapping[str, str],
    *,
    s_max: float,
    bytes_max: int,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Answer:
    """Post, and return the answer; redirects are not followed. Blocks for `s_max` seconds at most.

    Raises httpx.HTTPError, httpx.InvalidURL, OSError (TimeoutError when the time is over),
    UnicodeError.
    """
    return asyncio.run(_post(url, content, headers, s_max, bytes_max, transport))


async def _post(
    url: str,
    content: bytes,
    headers: Mapping[str, str],
    s_max: float,
    bytes_max: int,
    transport: httpx.AsyncBaseTransport | None,
) -> Answer:
    all_headers, body = {**_AS_IT_IS, **headers}, bytearray()
    no_limit = httpx.Timeout(None)  # of a single read: that of the whole holds
    async with (
        asyncio.timeout(s_max),
        httpx.AsyncClient(verify=_trusted(), timeout=no_limit, transport=transport) as client,
        client.stream("POST", url, content=content, headers=all_headers) as answer,
    ):
        if bytes_max:
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > bytes_max:
                    break
    return Answer(answer.status_code, bytes(body[: bytes_max + 1]))


@cache
def _trusted() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reads a file of authorities, which takes its time
