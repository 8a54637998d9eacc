"""Which chunks to ask for, of whom, and when to ask again.

A device subscribes to the retained chunks it lacks in a small window and unsubscribes as they
arrive, because brokers drop silently beyond their queue. What does not come is asked of the control
plane over the same session, then fetched over HTTPS. The decisions are the Window's, which has no
clock and no network; Downloads joins it to the connection and to the disk (`chunk_store`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from agent import log
from firmware_bundles.errors import ChunkCorrupt, ChunkMissing, ShoalError, TransferTooSlow
from firmware_bundles.limits import (
    DOWNLOAD_S_DEFAULT,
    FILTERS_PER_SUBSCRIBE_MAX,
    RATE_BYTES_PER_S_DEFAULT,
)
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import ChunkRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agent.deployment.chunk_store import ChunkStore

CORRUPT_MAX: Final = 3
_DOUBLINGS_MAX: Final = 5
_ROUNDS_TOLD: Final = 2
_RATE_WINDOW_S: Final = 60.0


class Source(StrEnum):
    """Where a chunk may come from."""

    RETAINED = "retained"
    REQUEST = "request"
    HTTPS = "https"


# One round of tries; after each round the wait is doubled.
ROUND: Final = (Source.RETAINED, Source.RETAINED, Source.REQUEST, Source.HTTPS)


class Line(Protocol):
    """What a download needs of the connection."""

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for the retained messages of these topics."""

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ask for no more of them."""


class Session(Line, Protocol):
    """The same, and a word to the control plane."""

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send once; return whether the session took it."""


class Web(Protocol):
    """Chunks over HTTPS, from the control plane or a mirror."""

    async def fetch(self, digests: Sequence[str]) -> Mapping[str, bytes]:
        """Return those chunks that could be had. Raises TransferError or DeviceError."""


class Pace(NamedTuple):
    """How slow a download may be: connected time in all, without a chunk, and rate in a minute."""

    connected_s_max: float = DOWNLOAD_S_DEFAULT
    rate_bytes_per_s_min: float = RATE_BYTES_PER_S_DEFAULT
    silent_s_max: float = float("inf")


class _Asked(NamedTuple):
    at: float
    attempt: int


class Window:
    """Which chunks are asked for now: never more than `size` outstanding. Times are arguments.

    An attempt that worked where earlier ones did not is where the next chunks begin, until nothing
    is wanted any more: the next download begins at the broker, which serves any number of devices.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._todo: deque[str] = deque()
        self._outstanding: dict[str, _Asked] = {}
        self._corrupt: Counter[str] = Counter()
        self._first_attempt = 0

    @property
    def outstanding(self) -> frozenset[str]:
        """The chunks that are asked for and have not arrived."""
        return frozenset(self._outstanding)

    def source(self, digest: str) -> Source:
        """Return where an outstanding chunk was asked for."""
        return ROUND[self._outstanding[digest].attempt % len(ROUND)]

    def want(self, digests: Iterable[str]) -> None:
        """Queue chunks; one that is queued or asked for already is not queued twice."""
        known = self._outstanding.keys() | set(self._todo)
        self._todo.extend(digest for digest in dict.fromkeys(digests) if digest not in known)

    def fill(self, now: float) -> tuple[str, ...]:
        """Return what to ask for now; refilled when half of the window is free."""
        if len(self._outstanding) > self._size // 2:
            return ()
        count = min(self._size - len(self._outstanding), len(self._todo))
        taken = tuple(self._todo.popleft() for _ in range(count))
        self._outstanding.update(dict.fromkeys(taken, _Asked(now, self._first_attempt)))
        return taken

    def arrived(self, digest: str) -> bool:
        """Take a verified chunk off; return whether it had been asked for."""
        self._corrupt.pop(digest, None)
        asked = self._outstanding.pop(digest, None)
        if asked is not None:
            self._first_attempt = asked.attempt % len(ROUND)
        self._forget_source_at_end()
        return asked is not None

    def arrived_corrupt(self, digest: str) -> int:
        """Count a delivery with wrong bytes and return how many there were of this chunk."""
        if digest not in self._outstanding:
            return 0
        self._corrupt[digest] += 1
        return self._corrupt[digest]

    def stalled(self, now: float, stall_s: float) -> tuple[str, ...]:
        """Return the outstanding chunks to ask for anew, each with its next attempt begun."""
        late = tuple(
            digest
            for digest, asked in self._outstanding.items()
            if now - asked.at >= stall_s * 2 ** min(asked.attempt // len(ROUND), _DOUBLINGS_MAX)
        )
        for digest in late:
            self._outstanding[digest] = _Asked(now, self._outstanding[digest].attempt + 1)
        return late

    def starving(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Return those of the stalled chunks that no source gave in so many rounds; once each."""
        told_at = _ROUNDS_TOLD * len(ROUND)
        return tuple(d for d in digests if self._outstanding[d].attempt == told_at)

    def failed(self, digests: Iterable[str]) -> None:
        """Let chunks whose source said no be late at the next look."""
        for digest in digests:
            if digest in self._outstanding:
                attempt = self._outstanding[digest].attempt
                self._outstanding[digest] = _Asked(float("-inf"), attempt)

    def drop(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Forget chunks that nobody wants any more; return those that were asked for."""
        gone = set(digests)
        self._todo = deque(digest for digest in self._todo if digest not in gone)
        for digest in gone:
            self._corrupt.pop(digest, None)
        asked_for = tuple(d for d in gone if self._outstanding.pop(d, None) is not None)
        self._forget_source_at_end()
        return asked_for

    def _forget_source_at_end(self) -> None:
        if not self._outstanding and not self._todo:
            self._first_attempt = 0

    def reconnected(self) -> None:
        """Queue all outstanding chunks again: a clean session remembers no subscription."""
        self._todo.extendleft(reversed(self._outstanding))
        self._outstanding.clear()
        self._first_attempt = 0


class Downloads:
    """Fetches chunks for any number of deployments at once."""

    def __init__(
        self,
        store: ChunkStore,
        line: Session,
        *,
        device: str,
        web: Web | None = None,
        window: int,
        stall_s: float,
        detect: Callable[[ShoalError], None],
    ) -> None:
        self._store = store
        self._line = line
        self._device = device
        self._web = web
        self._window = Window(window)
        self._stall_s = stall_s
        self._detect = detect
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._surfing: set[asyncio.Task[None]] = set()
        self._is_up = False
        self._done: list[str] = []
        self._arrived_bytes = 0

    async def fetch(self, digests: Sequence[str], pace: Pace | None = None) -> None:
        """Return when all these chunks are in the store, however long the network is away.

        Raises ChunkCorrupt after three corrupt deliveries of one chunk, TransferTooSlow if `pace`
        was not kept, and SlotUnwritable or StorageFull if a chunk cannot be kept.
        """
        lacking = await asyncio.to_thread(self.lacking, digests)
        futures = [self._wait_for(digest) for digest in lacking]
        self._window.want(lacking)
        self._fill()
        work: list[asyncio.Future[Any]] = [asyncio.gather(*futures)]
        if pace is not None:
            work.append(asyncio.ensure_future(self._watch_pace(pace)))
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            self._leave(lacking, futures)

    async def take(self, digests: Sequence[str]) -> list[bytes]:
        """Fetch chunks out of the store again, for what is kept elsewhere.

        Raises what `fetch` does, and ChunkMissing if one was lost meanwhile.
        """
        await self.fetch(digests)
        return await asyncio.to_thread(self._take, digests)

    def _take(self, digests: Sequence[str]) -> list[bytes]:
        try:
            return [self._store.read(digest) for digest in digests]
        except OSError as error:
            raise ChunkMissing(f"a chunk was lost after it arrived: {error.strerror}") from error
        finally:
            self._store.forget(digests)

    def clear(self) -> None:
        """Forget all chunks, unless some are just being fetched."""
        if not self._waiting:
            self._store.clear()

    def lacking(self, digests: Iterable[str]) -> list[str]:
        """Return those chunks that the store does not have, each once. Blocks."""
        return [digest for digest in dict.fromkeys(digests) if not self._store.has(digest)]

    async def received(self, digest: str, payload: bytes) -> None:
        """Take in a chunk, asked for or not."""
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
        self._arrived_bytes += len(payload)
        if self._window.arrived(digest):
            self._done.append(topics.chunk(digest))
        self._settle(digest, None)
        self._fill()

    def connection_changed(self, *, is_up: bool) -> None:
        """Ask again for what was asked for on the connection that is gone."""
        self._is_up = is_up
        self._done.clear()
        if is_up:
            self._window.reconnected()
            self._fill()

    async def watch(self) -> None:
        """Ask again for chunks that do not come; runs until cancelled."""
        while True:
            # A fleet whose broker forgot a chunk must not ask for it in step.
            await asyncio.sleep(self._stall_s / 4 * random.uniform(0.75, 1.25))  # noqa: S311
            self.look(self._now())

    def look(self, now: float) -> None:
        """Ask again, at the next source, for the chunks that are late at this time."""
        late = self._window.stalled(now, self._stall_s) if self._is_up else ()
        if not late:
            return
        if starving := self._window.starving(late):
            self._detect(
                ChunkMissing(
                    f"{len(starving)} chunks come from nowhere, the first is {starving[0][:12]}"
                )
            )
        # Only a new subscription brings a retained message anew.
        self._line.unsubscribe([topics.chunk(digest) for digest in late])
        self._ask(late)
        log.event("chunks-stalled", count=len(late), now_from=self._window.source(late[0]))

    def _ask(self, digests: Sequence[str]) -> None:
        """Ask for outstanding chunks where each is now to be asked for."""
        by_source: dict[Source, list[str]] = {}
        for digest in digests:
            by_source.setdefault(self._window.source(digest), []).append(digest)
        filters = [topics.chunk(digest) for digest in by_source.get(Source.RETAINED, ())]
        for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE_MAX):
            self._line.subscribe(filters[start : start + FILTERS_PER_SUBSCRIBE_MAX])
        if asked := by_source.get(Source.REQUEST):
            request = codec.encode(ChunkRequest(digests=tuple(asked)))
            self._line.publish(topics.up(self._device, topics.Up.REQUEST), request)
        if asked := by_source.get(Source.HTTPS):
            surfing = asyncio.create_task(self._surf(asked))
            self._surfing.add(surfing)
            surfing.add_done_callback(self._surfing.discard)

    async def _surf(self, digests: list[str]) -> None:
        found: Mapping[str, bytes] = {}
        try:
            if self._web is not None:
                found = await self._web.fetch(digests)
        except ShoalError as error:
            log.event("chunks-not-fetched", code=error.code, reason=error.message)
        for digest, data in found.items():
            await self.received(digest, data)
        self._window.failed(set(digests) - found.keys())

    async def _watch_pace(self, pace: Pace) -> None:
        """Raise TransferTooSlow when the time is over; a slow minute makes it ask elsewhere."""
        connected_s, silent_s, minute_s = 0.0, 0.0, 0.0
        minute_bytes = last_bytes = self._arrived_bytes
        step_s = min(1.0, self._stall_s / 4, pace.connected_s_max / 4)
        while connected_s < pace.connected_s_max:
            await asyncio.sleep(step_s)
            connected_s += step_s * self._is_up
            minute_s += step_s * self._is_up
            silent_s = silent_s + step_s * self._is_up if last_bytes == self._arrived_bytes else 0.0
            last_bytes = self._arrived_bytes
            if silent_s >= pace.silent_s_max:
                raise TransferTooSlow(f"no chunk came in {silent_s:.0f} seconds with a connection")
            if minute_s < _RATE_WINDOW_S:
                continue
            rate = (self._arrived_bytes - minute_bytes) / minute_s
            minute_s, minute_bytes = 0.0, self._arrived_bytes
            if rate < pace.rate_bytes_per_s_min:
                self._detect(TransferTooSlow(f"chunks came at {rate:.0f} bytes a second"))
                self._window.failed(self._window.outstanding)
        raise TransferTooSlow(
            f"the download was not complete after {connected_s:.0f} seconds with a connection"
        )

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
        self._done += [topics.chunk(digest) for digest in gone]
        self._fill()
        self._unsubscribe()

    def _fill(self) -> None:
        if self._is_up and (digests := self._window.fill(self._now())):
            self._unsubscribe()
            self._ask(digests)

    def _unsubscribe(self) -> None:
        """Take back what arrived, several at a time: each packet costs the broker."""
        done, self._done = self._done, []
        for start in range(0, len(done) if self._is_up else 0, FILTERS_PER_SUBSCRIBE_MAX):
            self._line.unsubscribe(done[start : start + FILTERS_PER_SUBSCRIBE_MAX])

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
