"""The feed of the page: one look for all who listen, and only what changed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from control_plane.api.events import Feed, Message


class Source:
    """Says what it is told to say, and counts how often it was asked."""

    def __init__(self) -> None:
        self.looks = 0
        self.words = {"a": "1", "b": "1"}
        self.threads: set[int] = set()

    def __call__(self) -> dict[str, Message]:
        """One look."""
        self.looks += 1
        self.threads.add(threading.get_ident())
        if "fault" in self.words:
            raise OSError
        return {name: Message("", f"{name}{word}") for name, word in self.words.items()}


async def _next(listener: AsyncIterator[list[Message]]) -> list[str]:
    return [message.data for message in await asyncio.wait_for(anext(listener), 5)]


def run(case: Callable[[Source, Feed], Coroutine[Any, Any, None]]) -> Source:
    """Run a case over a fast feed."""
    source = Source()

    async def body() -> None:
        await case(source, Feed(source, period_s=0.01))

    asyncio.run(body())
    return source


def test_a_listener_gets_all_and_then_what_changed() -> None:
    """The first answer holds every part, later ones only the parts that differ."""

    async def case(source: Source, feed: Feed) -> None:
        async with aclosing(feed.listen()) as listener:
            assert await _next(listener) == ["a1", "b1"]
            source.words["b"] = "2"
            assert await _next(listener) == ["b2"]

    run(case)


def test_one_look_serves_all_listeners() -> None:
    """Twenty listeners cost as many looks as one, and none in the loop's own thread."""

    async def case(source: Source, feed: Feed) -> None:
        listeners = [feed.listen() for _ in range(20)]
        for listener in listeners:
            assert await _next(listener) == ["a1", "b1"]
        before = source.looks
        await asyncio.sleep(0.1)
        assert source.looks - before <= 11
        for listener in listeners:
            await listener.aclose()
        await asyncio.sleep(0.02)
        before = source.looks
        await asyncio.sleep(0.1)
        assert source.looks == before

    assert threading.get_ident() not in run(case).threads


def test_a_slow_listener_gets_the_latest_only() -> None:
    """Nothing is queued for one that does not read."""

    async def case(source: Source, feed: Feed) -> None:
        async with aclosing(feed.listen()) as slow, aclosing(feed.listen()) as fast:
            await _next(slow)
            await _next(fast)
            for word in "2345":
                source.words["a"] = word
                assert await _next(fast) == [f"a{word}"]
            assert await _next(slow) == ["a5"]

    run(case)


def test_a_failed_look_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """The feed outlives an error, and says so in the log."""

    async def case(source: Source, feed: Feed) -> None:
        async with aclosing(feed.listen()) as listener:
            await _next(listener)
            source.words["fault"] = "x"
            await asyncio.sleep(0.05)
            source.words = {"a": "9", "b": "1"}
            assert await _next(listener) == ["a9"]

    run(case)
    assert "the page cannot be renewed" in caplog.text


def test_messages_keep_their_lines() -> None:
    """Each line of the data gets its field, so that no line can pose as another event."""
    assert Message("", "one\nevent: two\r\n\nid: 3").encode() == (
        b"data: one\ndata: event: two\ndata: \ndata: id: 3\n\n"
    )
    assert Message("series", "").encode() == b"event: series\ndata: \n\n"
