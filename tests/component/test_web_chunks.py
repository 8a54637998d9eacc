"""Chunks over real HTTP: a mirror, the control plane behind it, a proxy, and wrong answers."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agent import web_chunks
from agent.children import Children
from agent.deployment.mirrors import Mirrors
from agent.task_messages import FetchChunks, FetchedChunks
from firmware_bundles.errors import ChunkCorrupt, ChunkMissing, ServerUnreachable, ShoalError
from support.http_server import serving

DATA = b"a chunk of some model" * 100
DIGEST = hashlib.sha256(DATA).hexdigest()
OTHER = hashlib.sha256(b"nobody has it").hexdigest()


async def _answer(request: Request) -> Response:
    """Play the shelf that the path names."""
    kind, digest = request.path_params["kind"], request.path_params["digest"]
    if kind == "endless":
        return StreamingResponse(_endless())
    if kind == "moved":
        return Response(status_code=302, headers={"location": f"/good/{digest}"})
    if kind == "packed":
        return Response(gzip.compress(DATA), headers={"content-encoding": "gzip"})
    if digest != DIGEST or kind == "empty":
        return Response(status_code=404)
    return Response(DATA if kind != "corrupt" else DATA[:-1] + b"!")


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(16 * 1024)
        await asyncio.sleep(0)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server whose shelves are good, moved, empty, corrupt, endless, and packed unasked."""
    routes = [Route("/{kind}/{digest}", _answer), Route("/{kind}/api/v1/chunks/{digest}", _answer)]
    with serving(Starlette(routes=routes)) as url:
        yield url


def fetched(urls: list[str], *digests: str) -> FetchedChunks:
    """What a task answers."""
    request = FetchChunks(
        urls=tuple(urls), ca="/nowhere", digests=digests or (DIGEST,), timeout_s=10.0
    )
    return web_chunks.fetch(request)


@pytest.mark.parametrize("first", ["good", "moved", "empty", "corrupt", "endless", "packed"])
def test_each_chunk_comes_from_the_first_address_that_has_it(address: str, first: str) -> None:
    """Whatever the addresses before it say."""
    urls = [f"{address}/{first}/{{digest}}", f"{address}/good/{{digest}}"]
    assert fetched(urls).chunks == {DIGEST: DATA}


@pytest.mark.parametrize(
    ("shelf", "error"),
    [
        ("empty", ChunkMissing),
        ("corrupt", ChunkCorrupt),
        ("endless", ChunkCorrupt),
        ("packed", ChunkCorrupt),
    ],
)
def test_a_chunk_that_no_address_has_is_told(
    address: str, shelf: str, error: type[ShoalError]
) -> None:
    """With the refusal of the last one, beside what could be had."""
    answer = fetched([f"{address}/{shelf}/{{digest}}"])
    assert answer.chunks == {}
    assert answer.fault is not None
    assert answer.fault.code == error.code


def test_what_one_address_lacks_does_not_hold_up_the_rest(address: str) -> None:
    """Each chunk for itself."""
    answer = fetched([f"{address}/good/{{digest}}"], OTHER, DIGEST)
    assert answer.chunks == {DIGEST: DATA}
    assert answer.fault is not None


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/{digest}", "http://[/{digest}", "nonsense"])
def test_an_address_where_nobody_answers_is_told(url: str) -> None:
    """As one that cannot be reached."""
    answer = fetched([url])
    assert answer.fault is not None
    assert answer.fault.code == ServerUnreachable.code


def test_the_proxy_of_the_environment_is_used(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the mirror is the proxy's to resolve."""
    monkeypatch.setenv("HTTP_PROXY", address)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetched(["http://mirror.invalid/good/{digest}"]).chunks == {DIGEST: DATA}


def test_a_mirror_is_asked_before_the_control_plane(address: str, tmp_path: Path) -> None:
    """Through a real child of the core; what came is counted."""
    counted: list[bytes] = []

    async def run(mirror: str, server: str) -> dict[str, bytes]:
        children = Children(s_max=30.0)
        mirrors = Mirrors(
            children,
            server=f"{address}/{server}",
            mirrors=[f"{address}/{mirror}/"],
            ca=tmp_path / "ca.pem",
            on_fetched=counted.append,
        )
        try:
            return await mirrors.fetch([DIGEST])
        finally:
            await children.stop()

    assert asyncio.run(run("good", "empty")) == {DIGEST: DATA}
    assert asyncio.run(run("empty", "good")) == {DIGEST: DATA}
    assert counted == [DATA, DATA]
    with pytest.raises(ChunkMissing):
        asyncio.run(run("empty", "empty"))
