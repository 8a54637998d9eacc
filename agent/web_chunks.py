"""Chunks over HTTPS, as a task fetches them. Heavy (httpx): never imported by the core.

Proxies of the environment (HTTPS_PROXY, NO_PROXY) are honoured. A mirror needs no trust: a chunk is
what its digest says.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

import httpx

from agent import tls, web_bodies
from agent.clock import Clock
from agent.task_messages import FetchChunks, FetchedChunks
from firmware_bundles import chunks
from firmware_bundles.errors import ChunkCorrupt, ChunkMissing, ServerUnreachable, ShoalError
from firmware_bundles.limits import CHUNK_BYTES_MAX
from firmware_bundles.wire.messages import Fault


def fetch(request: FetchChunks) -> FetchedChunks:
    """Return the chunks that some address has; the last refusal, if any is missing."""
    found: dict[str, bytes] = {}
    fault: Fault | None = None
    urls = list(request.urls)
    with httpx.Client(
        verify=_trusted(request.ca), timeout=request.timeout_s, follow_redirects=True
    ) as client:
        for digest in request.digests:
            try:
                found[digest] = _first(client, urls, digest, request.timeout_s)
            except ShoalError as error:
                fault = Fault(code=error.code, message=error.message[:512])
    return FetchedChunks(chunks=found, fault=fault)


def _trusted(ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    with suppress(OSError, ssl.SSLError):  # the system's authorities may do
        context.load_verify_locations(ca)
    return tls.hold_against(context, Clock().now)


def _first(client: httpx.Client, urls: list[str], digest: str, s_max: float) -> bytes:
    """Return a chunk; an address that does not answer is struck off, for others wait behind it."""
    refused: ShoalError = ChunkMissing(f"there is no address for chunk {digest[:12]}")
    for url in list(urls):
        try:
            return _get(client, url.replace("{digest}", digest), digest, s_max)
        except (ServerUnreachable, ChunkMissing, ChunkCorrupt) as error:
            refused = error
            if isinstance(error, ServerUnreachable):
                urls.remove(url)
    raise refused


def _get(client: httpx.Client, url: str, digest: str, s_max: float) -> bytes:
    """Return one chunk, verified, reading no more than a chunk may have."""
    try:
        with client.stream("GET", url, headers=web_bodies.AS_IT_IS) as response:
            if not response.is_success:
                raise ChunkMissing(f"{url} answered with status {response.status_code}")
            data = web_bodies.read(response, CHUNK_BYTES_MAX, s_max)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerUnreachable(f"{url} did not answer: {error}") from error
    chunks.verify(digest, data)
    return data
