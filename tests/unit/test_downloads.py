"""The download window, the chunk store, and both over a broker made of a dictionary."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployment.chunk_store import ChunkStore
from agent.deployment.downloads import CORRUPT_MAX, ROUND, Downloads, Pace, Source, Web, Window
from firmware_bundles.chunks import cut, digest_of
from firmware_bundles.errors import (
    ChunkCorrupt,
    ChunkMissing,
    DigestMismatch,
    ServerUnreachable,
    ShoalError,
    StorageFull,
    TransferTooSlow,
)
from firmware_bundles.limits import CHUNK_BYTES_MAX, FILTERS_PER_SUBSCRIBE_MAX
from firmware_bundles.manifest import FileEntry
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import ChunkRequest


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


def bundle_file(data: bytes) -> FileEntry:
    """A file as a manifest lists it."""
    return FileEntry(
        name="model.tflite",
        length=len(data),
        digest=digest_of(data),
        chunks=tuple(piece.digest for piece in cut(data)),
    )


def test_an_expected_file_is_put_together_in_place(tmp_path: Path) -> None:
    """Allocated at once; whole when all its chunks came, in any order, a repeated one once."""
    data = b"a" * CHUNK_BYTES_MAX + b"b" * CHUNK_BYTES_MAX + b"a" * CHUNK_BYTES_MAX + b"end"
    entry, written = bundle_file(data), list[int]()
    store = ChunkStore(tmp_path / "chunks", on_written=written.append)
    store.expect([entry])
    assert (tmp_path / "chunks" / f"{entry.digest}.part").stat().st_size == len(data)
    for piece in sorted(set(cut(data))):
        assert not store.has(piece.digest)
        store.save(piece.digest, piece.data)
        assert store.read(piece.digest) == piece.data
    store.take(entry, tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes() == data
    assert sum(written) == len(data)
    assert list((tmp_path / "chunks").iterdir()) == []


def test_chunks_of_an_expected_file_survive_a_restart(tmp_path: Path) -> None:
    """What hashes to its digest is there; what rotted is not."""
    data = os.urandom(4 * CHUNK_BYTES_MAX + 17)
    entry, pieces = bundle_file(data), list(cut(data))
    store = ChunkStore(tmp_path)
    store.expect([entry])
    for piece in pieces[:3]:
        store.save(piece.digest, piece.data)
    with (tmp_path / f"{entry.digest}.part").open("r+b") as file:
        file.seek(CHUNK_BYTES_MAX)
        file.write(b"rot")
    again = ChunkStore(tmp_path)
    again.expect([entry])
    assert [again.has(piece.digest) for piece in pieces] == [True, False, True, False, False]


def test_a_file_that_is_not_whole_is_not_handed_over(tmp_path: Path) -> None:
    """And what is missing can be found out."""
    data = os.urandom(2 * CHUNK_BYTES_MAX)
    entry, pieces = bundle_file(data), list(cut(data))
    store = ChunkStore(tmp_path / "chunks")
    store.expect([entry])
    store.save(pieces[0].digest, pieces[0].data)
    with pytest.raises(DigestMismatch):
        store.take(entry, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()
    store.expect([entry])
    assert [store.has(piece.digest) for piece in pieces] == [True, False]


def test_chunks_of_another_version_are_copied(tmp_path: Path) -> None:
    """Only those that are still what they were."""
    old = os.urandom(3 * CHUNK_BYTES_MAX)
    new = old[: 2 * CHUNK_BYTES_MAX] + b"other" + old[2 * CHUNK_BYTES_MAX :]
    (tmp_path / "old").write_bytes(b"rot" + old[3:])
    store = ChunkStore(tmp_path / "chunks")
    store.expect([bundle_file(new)])
    assert store.adopt(tmp_path / "old", bundle_file(old)) == CHUNK_BYTES_MAX
    assert [store.has(piece.digest) for piece in cut(new)] == [False, True, False, False]


def test_a_chunk_that_came_before_its_file_was_expected_is_used(tmp_path: Path) -> None:
    """It needs not come again."""
    data = b"only one chunk"
    store = ChunkStore(tmp_path)
    store.save(digest_of(data), data)
    store.expect([bundle_file(data)])
    store.take(bundle_file(data), tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == data


@pytest.mark.parametrize(
    ("limits", "word"),
    [({"quota_bytes": 1000}, "quota"), ({"reserve_bytes": 2**60}, "free")],
)
def test_a_download_without_room_is_refused_before_its_first_byte(
    tmp_path: Path, limits: dict[str, int], word: str
) -> None:
    """By the quota or by the disk."""
    store = ChunkStore(tmp_path, **limits)  # type: ignore[arg-type]
    with pytest.raises(StorageFull, match=word):
        store.expect([bundle_file(bytes(2000))])
    assert list(tmp_path.iterdir()) == []


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

    def subscribe(self, filters: Sequence[str]) -> None:
        """Deliver what is retained, soon."""
        self.packets.append(len(filters))
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


async def fetched(
    line: Retained, directory: Path, digests: Sequence[str], stall_s: float = 0.05
) -> list[ShoalError]:
    """Fetch all over the line; return what was detected meanwhile."""
    detected: list[ShoalError] = []
    downloads = Downloads(
        ChunkStore(directory),
        line,
        device="d1",
        web=line.web,
        window=8,
        stall_s=stall_s,
        detect=detected.append,
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
    asyncio.run(fetched(line, tmp_path, list(retained), stall_s=10.0))
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
    assert line.asked.count(topics.chunk(bad)) >= CORRUPT_MAX
    assert line.subscribed == set()


def test_a_chunk_that_is_whole_the_second_time_is_taken(tmp_path: Path) -> None:
    """One corrupt delivery is detected and asked for again."""
    digest, data = chunk(1)

    class MendedOnce(Retained):
        def subscribe(self, filters: Sequence[str]) -> None:
            super().subscribe(filters)
            self.retained = {digest: data}

    detected = asyncio.run(fetched(MendedOnce({digest: b"wrong"}), tmp_path, [digest], stall_s=0.5))
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
    assert asyncio.run(fetched(line, tmp_path, list(stock), stall_s=0.5)) == []
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


def test_chunks_that_come_from_nowhere_are_told_of_once(tmp_path: Path) -> None:
    """Who starves a device of chunks is noticed; the fetch goes on when they come after all."""
    retained = dict(chunk(n) for n in range(4))
    line = Retained({})

    async def run() -> list[ShoalError]:
        asyncio.get_running_loop().call_later(2.0, line.retained.update, retained)
        return await fetched(line, tmp_path, list(retained))

    (detected,) = asyncio.run(run())
    assert (detected.code, "4 chunks" in detected.message) == (ChunkMissing.code, True)
    assert {file.name for file in tmp_path.iterdir()} == set(retained)
