"""The download window, and downloads over a broker made of a dictionary."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployment.chunk_store import ChunkStore
from agent.deployment.downloads import CORRUPT_MAX, ROUND, Downloads, Pace, Source, Web, Window
from firmware_bundles.errors import (
    ChunkCorrupt,
    ChunkMissing,
    ServerUnreachable,
    ShoalError,
    TransferTooSlow,
)
from firmware_bundles.limits import FILTERS_PER_SUBSCRIBE_MAX
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import ChunkRequest

_STALL_S = 1_000.0


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


def test_what_does_not_come_is_asked_for_elsewhere_and_ever_more_rarely() -> None:
    """Twice at the broker, then of the control plane, then over HTTPS; each round waits longer."""
    window = Window(8)
    window.want(["a"])
    window.fill(0.0)
    asked: list[tuple[Source, float]] = [(window.source("a"), 0.0)]
    asked += [
        (window.source("a"), float(now))
        for now in range(1, 400)
        if window.stalled(float(now), 10.0)
    ]
    assert [source for source, _ in asked[:5]] == [*ROUND, Source.RETAINED]
    waits = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(asked)]
    assert waits[:12] == [10.0] * 4 + [20.0] * 4 + [40.0] * 4


def test_the_next_chunks_begin_where_the_last_one_came_from() -> None:
    """A broker that has none of a release is not asked for each of its chunks first."""
    window = Window(2)
    window.want(["a", "b", "c"])
    window.fill(0.0)
    for now in (10.0, 20.0):
        window.stalled(now, 10.0)
    window.arrived("a")
    window.fill(21.0)
    assert window.source("c") is Source.REQUEST
    window.reconnected()
    window.fill(22.0)
    assert window.source("c") is Source.RETAINED


def test_the_next_download_begins_at_the_broker_again() -> None:
    """One chunk that had to be had elsewhere does not take a device off the broker for good."""
    window = Window(2)
    window.want(["a"])
    window.fill(0.0)
    for now in (10.0, 20.0, 30.0):
        window.stalled(now, 10.0)
    assert window.source("a") is Source.HTTPS
    window.arrived("a")
    window.want(["b"])
    window.fill(31.0)
    assert window.source("b") is Source.RETAINED


class Retained:
    """A line to a broker that retains chunks and sends them on each subscribe."""

    def __init__(self, retained: dict[str, bytes]) -> None:
        self.retained = retained
        self.deliver: Callable[[str, bytes], None] = lambda _digest, _data: None
        self.outstanding_max = 0
        self.subscribed: set[str] = set()
        self.packets: list[int] = []
        self.asked: list[str] = []
        self.requests: list[ChunkRequest] = []
        self.web: Web | None = None
        self.is_asked = asyncio.Event()

    def told(self, _error: ShoalError) -> None:
        """Hear what the device detected; a subclass does something about it."""

    def subscribe(self, filters: Sequence[str]) -> None:
        """Deliver what is retained, soon."""
        self.packets.append(len(filters))
        self.is_asked.set()
        self.asked += filters
        self.subscribed |= set(filters)
        self.outstanding_max = max(self.outstanding_max, len(self.subscribed))
        for topic in filters:
            digest = topics.parse_chunk(topic)
            if digest in self.retained:
                asyncio.get_running_loop().call_soon(self.deliver, digest, self.retained[digest])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Forget."""
        self.subscribed -= set(filters)

    def publish(self, topic: str, payload: bytes) -> bool:
        """Keep what was requested; a subclass answers."""
        assert topic == topics.up("d1", topics.Up.REQUEST)
        self.requests.append(codec.decode(ChunkRequest, payload))
        return True


async def fetched(line: Retained, directory: Path, digests: Sequence[str]) -> list[ShoalError]:
    """Fetch all over the line; return what was detected meanwhile.

    A chunk is late as soon as nothing else moves: how fast this machine is does not matter.
    """
    detected: list[ShoalError] = []

    def detect(error: ShoalError) -> None:
        detected.append(error)
        line.told(error)

    downloads = Downloads(
        ChunkStore(directory),
        line,
        device="d1",
        web=line.web,
        window=8,
        stall_s=_STALL_S,
        detect=detect,
    )
    arriving: set[asyncio.Task[None]] = set()

    def deliver(digest: str, data: bytes) -> None:
        arriving.add(asyncio.create_task(downloads.received(digest, data)))

    line.deliver = deliver
    fetching = asyncio.current_task()
    looking = asyncio.create_task(_look_when_nothing_moves(downloads, fetching))
    downloads.connection_changed(is_up=True)
    try:
        async with asyncio.timeout(60):
            await downloads.fetch(digests)
    finally:
        looking.cancel()
        await asyncio.gather(looking, *arriving, return_exceptions=True)
    return detected


async def _look_when_nothing_moves(
    downloads: Downloads, fetching: asyncio.Task[object] | None
) -> None:
    now = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(0.002)  # what was called soon has been called
        moving = asyncio.all_tasks() - {fetching, asyncio.current_task()}
        if moving:
            await asyncio.wait(moving)
            continue
        now += 64 * _STALL_S
        downloads.look(now)


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
    assert line.asked.count(topics.chunk(bad)) == CORRUPT_MAX
    assert line.subscribed == set()


def test_a_chunk_that_is_whole_the_second_time_is_taken(tmp_path: Path) -> None:
    """One corrupt delivery is detected and asked for again."""
    digest, data = chunk(1)

    class MendedOnce(Retained):
        def subscribe(self, filters: Sequence[str]) -> None:
            super().subscribe(filters)
            self.retained = {digest: data}

    detected = asyncio.run(fetched(MendedOnce({digest: b"wrong"}), tmp_path, [digest]))
    assert [error.code for error in detected] == [ChunkCorrupt.code]
    assert (tmp_path / digest).read_bytes() == data


class Answering(Retained):
    """A broker that has forgotten everything, before a control plane that answers requests."""

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send what was requested, soon."""
        super().publish(topic, payload)
        for digest in self.requests[-1].digests:
            asyncio.get_running_loop().call_soon(self.deliver, digest, self.stock[digest])
        return True

    def __init__(self, stock: dict[str, bytes]) -> None:
        super().__init__({})
        self.stock = stock


def test_chunks_that_the_broker_has_not_come_on_request(tmp_path: Path) -> None:
    """After two tries; the rest is requested at once, a window at a time."""
    stock = dict(chunk(n) for n in range(40))
    line = Answering(stock)
    assert asyncio.run(fetched(line, tmp_path, list(stock))) == []
    assert {file.name for file in tmp_path.iterdir()} == set(stock)
    assert max(len(request.digests) for request in line.requests) <= 8
    assert sum(line.packets) < 2 * len(stock)


class Shelf:
    """Chunks on the web; asked more than once, for it says no to some."""

    def __init__(self, stock: dict[str, bytes]) -> None:
        self.stock = stock

    async def fetch(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Return what is there."""
        if not self.stock.keys() & set(digests):
            raise ServerUnreachable("nobody is there")
        return {digest: self.stock[digest] for digest in digests}


def test_chunks_that_nobody_sends_come_over_https(tmp_path: Path) -> None:
    """The last of the sources."""
    stock = dict(chunk(n) for n in range(20))
    line = Retained({})
    line.web = Shelf(stock)
    assert asyncio.run(fetched(line, tmp_path, list(stock))) == []
    assert {file.name for file in tmp_path.iterdir()} == set(stock)


def test_a_download_that_nobody_answers_ends_at_its_deadline(tmp_path: Path) -> None:
    """Time without a connection does not count."""
    line = Retained({})
    line.web = Shelf({})

    async def run() -> None:
        downloads = Downloads(
            ChunkStore(tmp_path),
            line,
            device="d1",
            web=line.web,
            window=8,
            stall_s=0.01,
            detect=lambda _error: None,
        )
        fetching = asyncio.ensure_future(downloads.fetch([chunk(1)[0]], Pace(0.05, 0)))
        await asyncio.sleep(0.2)
        assert not fetching.done()
        downloads.connection_changed(is_up=True)
        async with asyncio.timeout(10):
            with pytest.raises(TransferTooSlow):
                await fetching
        assert line.subscribed == set()

    asyncio.run(run())


class FilledWhenMissed(Retained):
    """A broker to which the chunks come once somebody has missed them."""

    def __init__(self, stock: dict[str, bytes]) -> None:
        super().__init__({})
        self.stock = stock

    def told(self, _error: ShoalError) -> None:
        """Retain them."""
        self.retained.update(self.stock)


def test_chunks_that_come_from_nowhere_are_told_of_once(tmp_path: Path) -> None:
    """Who starves a device of chunks is noticed; the fetch goes on when they come after all."""
    stock = dict(chunk(n) for n in range(4))
    (detected,) = asyncio.run(fetched(FilledWhenMissed(stock), tmp_path, list(stock)))
    assert (detected.code, "4 chunks" in detected.message) == (ChunkMissing.code, True)
    assert {file.name for file in tmp_path.iterdir()} == set(stock)


def test_a_download_below_its_minimum_rate_is_told_and_asks_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that are not late yet are asked for anew at the next look, and not before."""
    monkeypatch.setattr("agent.deployment.downloads._RATE_WINDOW_S", 0.5)
    line = Retained({})

    async def run() -> None:
        slow = asyncio.Event()
        detected: list[ShoalError] = []

        def detect(error: ShoalError) -> None:
            detected.append(error)
            slow.set()

        downloads = Downloads(
            ChunkStore(tmp_path), line, device="d1", window=8, stall_s=_STALL_S, detect=detect
        )
        downloads.connection_changed(is_up=True)
        pace = Pace(connected_s_max=100.0, rate_bytes_per_s_min=1)
        fetching = asyncio.ensure_future(downloads.fetch([chunk(1)[0]], pace))
        now = asyncio.get_running_loop().time()
        await line.is_asked.wait()
        downloads.look(now)
        assert line.packets == [1]
        async with asyncio.timeout(60):
            await slow.wait()
        await asyncio.sleep(0)
        downloads.look(now)
        assert line.packets == [1, 1]
        assert [error.code for error in detected] == [TransferTooSlow.code]
        assert "0 bytes a second" in detected[0].message
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)

    asyncio.run(run())
