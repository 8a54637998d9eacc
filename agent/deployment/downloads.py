"""Chunks: which to ask for, when to ask again, and how they are kept.

A device subscribes to the retained chunks it lacks in a small window and unsubscribes as they
arrive, because brokers drop silently beyond their queue. The decisions are the Window's, which has
no clock and no network; ChunkStore is the disk; Downloads joins them to the connection.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from agent import log
from agent.deployment.slots import unwritable
from firmware_bundles import chunks, durable
from firmware_bundles.errors import ChunkCorrupt, ShoalError
from firmware_bundles.limits import CHUNK_BYTES_MAX, FILTERS_PER_SUBSCRIBE_MAX
from firmware_bundles.wire import topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

CORRUPT_MAX: Final = 3


class Line(Protocol):
    """What a download needs of the connection."""

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for the retained messages of these topics."""

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ask for no more of them."""


class Window:
    """Which chunks are asked for now: never more than `size` outstanding. Times are arguments."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._todo: deque[str] = deque()
        self._outstanding: dict[str, float] = {}
        self._corrupt: Counter[str] = Counter()

    @property
    def outstanding(self) -> frozenset[str]:
        """The chunks that are subscribed to and have not arrived."""
        return frozenset(self._outstanding)

    def want(self, digests: Iterable[str]) -> None:
        """Queue chunks; one that is queued or asked for already is not queued twice."""
        known = self._outstanding.keys() | set(self._todo)
        self._todo.extend(digest for digest in dict.fromkeys(digests) if digest not in known)

    def fill(self, now: float) -> tuple[str, ...]:
        """Return what to subscribe to now; refilled when half of the window is free."""
        if len(self._outstanding) > self._size // 2:
            return ()
        count = min(self._size - len(self._outstanding), len(self._todo))
        taken = tuple(self._todo.popleft() for _ in range(count))
        self._outstanding.update(dict.fromkeys(taken, now))
        return taken

    def arrived(self, digest: str) -> bool:
        """Take a verified chunk off; return whether it had been asked for."""
        self._corrupt.pop(digest, None)
        return self._outstanding.pop(digest, None) is not None

    def arrived_corrupt(self, digest: str) -> int:
        """Count a delivery with wrong bytes and return how many there were of this chunk."""
        if digest not in self._outstanding:
            return 0
        self._corrupt[digest] += 1
        return self._corrupt[digest]

    def stalled(self, now: float, stall_s: float) -> tuple[str, ...]:
        """Return the outstanding chunks to subscribe to anew, and begin their time again."""
        late = tuple(
            digest for digest, asked in self._outstanding.items() if now - asked >= stall_s
        )
        self._outstanding.update(dict.fromkeys(late, now))
        return late

    def drop(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Forget chunks that nobody wants any more; return those that were subscribed to."""
        gone = set(digests)
        self._todo = deque(digest for digest in self._todo if digest not in gone)
        for digest in gone:
            self._corrupt.pop(digest, None)
        return tuple(d for d in gone if self._outstanding.pop(d, None) is not None)

    def reconnected(self) -> None:
        """Queue all outstanding chunks again: a clean session remembers no subscription."""
        self._todo.extendleft(reversed(self._outstanding))
        self._outstanding.clear()


class ChunkStore:
    """Verified chunks as files named by their digest; they survive a power cut."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def directory(self) -> Path:
        """Where the chunks lie; a task may save some there, too."""
        return self._directory

    def has(self, digest: str) -> bool:
        """Return whether a whole chunk is there; a broken one is removed."""
        try:
            self.read(digest)
        except ChunkCorrupt:
            with suppress(OSError):
                (self._directory / digest).unlink()
            return False
        except OSError:
            return False
        return True

    def read(self, digest: str) -> bytes:
        """Return a chunk. Raises ChunkCorrupt or OSError."""
        with (self._directory / digest).open("rb") as file:
            data = file.read(CHUNK_BYTES_MAX + 1)
        chunks.verify(digest, data)
        return data

    def save(self, digest: str, data: bytes) -> None:
        """Verify a chunk, then keep it. Raises ChunkCorrupt, SlotUnwritable or StorageFull."""
        chunks.verify(digest, data)
        try:
            durable.make_directory(self._directory)
            durable.write(self._directory / digest, data)
        except OSError as error:
            raise unwritable(f"chunk {digest[:12]}", error) from error

    def clear(self) -> None:
        """Remove all chunks: nothing is being fetched."""
        with suppress(OSError):
            for file in self._directory.iterdir():
                file.unlink(missing_ok=True)


class Downloads:
    """Fetches chunks over the connection for any number of deployments at once."""

    def __init__(
        self,
        store: ChunkStore,
        line: Line,
        *,
        window: int,
        stall_s: float,
        detect: Callable[[ShoalError], None],
    ) -> None:
        self._store = store
        self._line = line
        self._window = Window(window)
        self._stall_s = stall_s
        self._detect = detect
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._is_up = False

    @property
    def store(self) -> ChunkStore:
        """Where fetched chunks lie."""
        return self._store

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._is_up

    async def fetch(self, digests: Sequence[str]) -> None:
        """Return when all these chunks are in the store, however long the network takes.

        Raises ChunkCorrupt after three corrupt deliveries of one chunk, and SlotUnwritable or
        StorageFull if a chunk cannot be kept.
        """
        lacking = await asyncio.to_thread(self.lacking, digests)
        futures = [self._wait_for(digest) for digest in lacking]
        self._window.want(lacking)
        self._fill()
        try:
            await asyncio.gather(*futures)
        finally:
            self._leave(lacking, futures)

    async def received(self, digest: str, payload: bytes) -> None:
        """Take in a chunk's message, asked for or not."""
        if not payload or digest not in self._window.outstanding:
            return  # cleared at the broker, or a late duplicate
        try:
            await asyncio.to_thread(self._store.save, digest, payload)
        except ChunkCorrupt as error:
            self._detect(error)
            if self._window.arrived_corrupt(digest) >= CORRUPT_MAX:
                self._settle(digest, error)
            return
        except ShoalError as error:
            self._settle(digest, error)
            return
        if self._window.arrived(digest):
            self._line.unsubscribe([topics.chunk(digest)])
        self._settle(digest, None)
        self._fill()

    def connection_changed(self, *, is_up: bool) -> None:
        """Ask again for what was asked for on the connection that is gone."""
        self._is_up = is_up
        if is_up:
            self._window.reconnected()
            self._fill()

    async def watch(self) -> None:
        """Ask again for chunks that do not come; runs until cancelled."""
        while True:
            await asyncio.sleep(self._stall_s / 4)
            late = self._window.stalled(self._now(), self._stall_s) if self._is_up else ()
            if not late:
                continue
            log.event("chunks-stalled", count=len(late), first=late[0][:12])
            filters = [topics.chunk(digest) for digest in late]
            self._line.unsubscribe(filters)
            self._subscribe(filters)

    def lacking(self, digests: Sequence[str]) -> list[str]:
        """Return those chunks that are not in the store, each once; reads and hashes all others."""
        return [digest for digest in dict.fromkeys(digests) if not self._store.has(digest)]

    def _wait_for(self, digest: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(digest, []).append(future)
        return future

    def _settle(self, digest: str, error: ShoalError | None) -> None:
        for future in self._waiting.pop(digest, []):
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _leave(self, digests: Sequence[str], futures: Sequence[asyncio.Future[None]]) -> None:
        for digest, future in zip(digests, futures, strict=True):
            if not future.cancel() and not future.cancelled():
                future.exception()  # one error is raised; the others are not asked for
            left = [other for other in self._waiting.get(digest, []) if other is not future]
            if left:
                self._waiting[digest] = left
            else:
                self._waiting.pop(digest, None)
        gone = self._window.drop(digest for digest in digests if digest not in self._waiting)
        if gone and self._is_up:
            self._line.unsubscribe([topics.chunk(digest) for digest in gone])
        self._fill()

    def _fill(self) -> None:
        if self._is_up and (digests := self._window.fill(self._now())):
            self._subscribe([topics.chunk(digest) for digest in digests])

    def _subscribe(self, filters: Sequence[str]) -> None:
        for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE_MAX):
            self._line.subscribe(filters[start : start + FILTERS_PER_SUBSCRIBE_MAX])

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
