"""The download window, the chunk store, and both over a broker made of a dictionary."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployment.downloads import CORRUPT_MAX, ChunkStore, Downloads, Window
from firmware_bundles.errors import ChunkCorrupt, ShoalError
from firmware_bundles.limits import FILTERS_PER_SUBSCRIBE_MAX
from firmware_bundles.wire import topics


def chunk(number: int) -> tuple[str, bytes]:
    """A small chunk and its digest."""
    data = b"chunk %d" % number
    return hashlib.sha256(data).hexdigest(), data


@given(
    size=st.integers(1, 16),
    count=st.integers(0, 60),
    actions=st.lists(st.sampled_from(["fill", "arrive", "reconnect", "stall"]), max_size=200),
)
def test_the_window_never_grows_and_never_forgets(
    size: int, count: int, actions: list[str]
) -> None:
    """At most `size` are outstanding; each chunk is outstanding, queued or has arrived."""
    window, digests = Window(size), [chunk(n)[0] for n in range(count)]
    window.want(digests)
    arrived: set[str] = set()
    for now, action in enumerate(actions):
        if action == "fill":
            assert not arrived & set(window.fill(now))
        elif action == "arrive" and window.outstanding:
            first = min(window.outstanding)
            assert window.arrived(first)
            arrived.add(first)
        elif action == "reconnect":
            window.reconnected()
        elif action == "stall":
            assert set(window.stalled(now, 3)) <= window.outstanding
        assert len(window.outstanding) <= size
    for now in range(count + 1):
        window.fill(now)
        for digest in window.outstanding:
            window.arrived(digest)
            arrived.add(digest)
    assert arrived == set(digests)


def test_a_stalled_chunk_is_asked_for_again_once_a_stall_time() -> None:
    """Not at every look."""
    window = Window(8)
    window.want(["a"])
    window.fill(0.0)
    assert window.stalled(9.0, 10.0) == ()
    assert window.stalled(10.0, 10.0) == ("a",)
    assert window.stalled(19.0, 10.0) == ()


def test_the_store_keeps_only_what_its_name_promises(tmp_path: Path) -> None:
    """A corrupt delivery is never stored; a file that rotted is fetched again."""
    store = ChunkStore(tmp_path / "chunks")
    digest, data = chunk(1)
    with pytest.raises(ChunkCorrupt):
        store.save(digest, data + b"!")
    assert not store.has(digest)
    store.save(digest, data)
    assert store.has(digest)
    (tmp_path / "chunks" / digest).write_bytes(b"rotten")
    assert not store.has(digest)
    assert not (tmp_path / "chunks" / digest).exists()


class Retained:
    """A line to a broker that retains chunks and sends them on each subscribe."""

    def __init__(self, retained: dict[str, bytes]) -> None:
        self.retained = retained
        self.deliver: Callable[[str, bytes], None] = lambda _digest, _data: None
        self.outstanding_max = 0
        self.subscribed: set[str] = set()
        self.packets: list[int] = []

    def subscribe(self, filters: Sequence[str]) -> None:
        """Deliver what is retained, soon."""
        self.packets.append(len(filters))
        self.subscribed |= set(filters)
        self.outstanding_max = max(self.outstanding_max, len(self.subscribed))
        for topic in filters:
            digest = topics.parse_chunk(topic)
            if digest in self.retained:
                asyncio.get_running_loop().call_soon(self.deliver, digest, self.retained[digest])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Forget."""
        self.subscribed -= set(filters)


async def fetched(
    line: Retained, directory: Path, digests: Sequence[str], stall_s: float = 0.05
) -> list[ShoalError]:
    """Fetch all over the line; return what was detected meanwhile."""
    detected: list[ShoalError] = []
    downloads = Downloads(
        ChunkStore(directory), line, window=8, stall_s=stall_s, detect=detected.append
    )
    arriving: set[asyncio.Task[None]] = set()

    def deliver(digest: str, data: bytes) -> None:
        arriving.add(asyncio.create_task(downloads.received(digest, data)))

    line.deliver = deliver
    watching = asyncio.create_task(downloads.watch())
    downloads.connection_changed(is_up=True)
    try:
        async with asyncio.timeout(10):
            await downloads.fetch(digests)
    finally:
        watching.cancel()
        await asyncio.gather(watching, *arriving, return_exceptions=True)
    return detected


def test_all_chunks_arrive_through_the_window(tmp_path: Path) -> None:
    """Few filters a packet, few outstanding, nothing left subscribed."""
    retained = dict(chunk(n) for n in range(40))
    line = Retained(retained)
    assert asyncio.run(fetched(line, tmp_path, list(retained))) == []
    assert {file.name for file in tmp_path.iterdir()} == set(retained)
    assert line.outstanding_max <= 8
    assert max(line.packets) <= FILTERS_PER_SUBSCRIBE_MAX
    assert line.subscribed == set()


def test_what_is_on_disk_is_not_fetched_again(tmp_path: Path) -> None:
    """Resuming asks only for what is lacking."""
    retained = dict(chunk(n) for n in range(20))
    store = ChunkStore(tmp_path)
    for digest in list(retained)[:15]:
        store.save(digest, retained[digest])
    line = Retained(retained)
    asyncio.run(fetched(line, tmp_path, list(retained)))
    assert sum(line.packets) == 5


def test_a_chunk_with_a_flipped_byte_is_detected_and_ends_the_fetch(tmp_path: Path) -> None:
    """Three corrupt deliveries, each detected, none stored; the other chunks are kept."""
    retained = dict(chunk(n) for n in range(4))
    bad = next(iter(retained))
    line = Retained({**retained, bad: b"x" + retained[bad][1:]})
    detected: list[ShoalError] = []

    async def run() -> None:
        with pytest.raises(ChunkCorrupt):
            detected.extend(await fetched(line, tmp_path, list(retained)))

    asyncio.run(run())
    assert bad not in {file.name for file in tmp_path.iterdir()}
    assert line.packets.count(1) == CORRUPT_MAX - 1
    assert line.subscribed == set()


def test_a_chunk_that_is_whole_the_second_time_is_taken(tmp_path: Path) -> None:
    """One corrupt delivery is detected and asked for again."""
    digest, data = chunk(1)
    line = Retained({digest: b"wrong"})

    async def run() -> list[ShoalError]:
        asyncio.get_running_loop().call_later(0.02, line.retained.update, {digest: data})
        return await fetched(line, tmp_path, [digest])

    detected = asyncio.run(run())
    assert [error.code for error in detected] == [ChunkCorrupt.code]
    assert (tmp_path / digest).read_bytes() == data
