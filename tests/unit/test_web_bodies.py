"""Answers over HTTP are read no further and no longer than they may be."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from agent import web_bodies


def _asked(pieces: Callable[[], Iterator[bytes]]) -> httpx.Response:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=pieces())

    client = httpx.Client(transport=httpx.MockTransport(answer))
    return client.send(client.build_request("GET", "http://shoal.test/"), stream=True)


def test_no_more_is_read_than_may_be() -> None:
    """Of an endless answer a byte more than the limit is kept, and no piece more is asked for."""
    count = itertools.count(1)
    response = _asked(lambda: (bytes(100) for _ in count))
    assert web_bodies.read(response, 1_000, 10.0) == bytes(1_001)
    assert next(count) == 12


@pytest.mark.parametrize("size", [0, 999, 1_000])
def test_what_is_not_too_long_is_read_whole(size: int) -> None:
    """Up to the limit."""
    assert web_bodies.read(_asked(lambda: iter([bytes(size)])), 1_000, 10.0) == bytes(size)


def test_an_answer_that_trickles_ends_at_its_time() -> None:
    """Though each byte comes soon enough for the time limit of a single read."""

    def trickle() -> Iterator[bytes]:
        while True:
            yield b"."
            time.sleep(0.01)

    begun = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        web_bodies.read(_asked(trickle), 1_000, 0.1)
    assert time.monotonic() - begun < 5
