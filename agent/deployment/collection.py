"""The retained files of the models repository, collected as the broker delivers them.

What is here is unverified: sizes are bounded, nothing else is known. A file that is larger than one
message comes as an index, and then in chunks. Verification reads `files` once all are there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from agent import log
from firmware_bundles.errors import MessageTooLarge, ShoalError
from firmware_bundles.limits import (
    FILTERS_PER_SUBSCRIBE_MAX,
    REPOSITORY_BYTES_MAX,
    REPOSITORY_FILE_BYTES_MAX,
)
from firmware_bundles.wire import codec, repository_files, topics
from firmware_bundles.wire.messages import FileIndex, RepositoryHint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agent.deployment.downloads import Line

WAIT_S_MAX: Final = 10.0


class Chunks(Protocol):
    """What fetches chunks."""

    async def take(self, digests: Sequence[str]) -> list[bytes]:
        """Return the bytes of these chunks, verified. Raises ShoalError."""


class Collection:
    """The files that the newest hint names, as far as they came."""

    def __init__(self, line: Line, chunks: Chunks, detect: Callable[[ShoalError], None]) -> None:
        self._line = line
        self._chunks = chunks
        self._detect = detect
        self._files: dict[str, bytes] = {}
        self._wanted: frozenset[str] | None = None
        self._indexed: frozenset[str] = frozenset()
        self._joining: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._is_dropped = False
        self._changed = asyncio.Event()

    @property
    def files(self) -> Mapping[str, bytes]:
        """What is there now, by name."""
        return self._files

    def connection_changed(self, *, is_up: bool) -> None:
        """Forget what was subscribed to: the retained hint will come again."""
        if not is_up:
            self._wanted = None

    def take_hint(self, payload: bytes) -> None:
        """Subscribe to the files that the hint names. Raises WireError for a broken hint."""
        hint = codec.decode(RepositoryHint, payload)
        wanted = frozenset(hint.files)
        filters = {name: topics.repository_file(name) for name in wanted}
        self._files = {name: data for name, data in self._files.items() if name in wanted}
        for name in self._joining.keys() - wanted:
            self._joining.pop(name)[1].cancel()
        new = wanted - (self._wanted or frozenset())
        self._wanted, self._indexed = wanted, frozenset(hint.indexed or ())
        self._subscribe(filters[name] for name in sorted(new))
        self._changed.set()

    def take_file(self, name: str, payload: bytes) -> None:
        """Keep one retained file, or fetch what its index names.

        Raises MessageTooLarge, Malformed.
        """
        if len(payload) > REPOSITORY_FILE_BYTES_MAX:
            raise MessageTooLarge(f"repository file {name!r:.80} has {len(payload)} bytes")
        if not payload or name not in (self._wanted or ()):
            return
        if name in self._indexed:
            self._take_index(name, codec.decode(FileIndex, payload))
        else:
            self._check_room(name, len(payload))
            self._keep(name, payload)

    async def whole(self) -> None:
        """Wait until every file that the hint names is there, or for as long as makes sense."""
        if self._is_dropped:
            self._is_dropped = False
            self._ask_again(self._missing())
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                while self._wanted is None or self._missing():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            missing = self._missing()
            log.event("metadata-incomplete", missing=",".join(missing) or "hint")
            self._ask_again(missing)
        self._changed.clear()

    async def change(self) -> None:
        """Wait until something more is there, or for as long as makes sense."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S_MAX):
                await self._changed.wait()

    def drop(self) -> None:
        """Forget all files, for they were refused; the next to need them asks for them anew."""
        self._files.clear()
        self._is_dropped = True

    async def stop(self) -> None:
        """End what is being fetched."""
        tasks = [task for _, task in self._joining.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take_index(self, name: str, index: FileIndex) -> None:
        repository_files.check(name, index)
        if name in self._files or name in self._joining:
            return
        self._check_room(name, index.length)
        task = asyncio.create_task(self._join(name, index))
        self._joining[name] = index.length, task

    async def _join(self, name: str, index: FileIndex) -> None:
        try:
            pieces = await self._chunks.take(index.chunks)
            self._keep(name, repository_files.join(name, index, pieces))
        except ShoalError as error:
            self._detect(error)
        finally:
            if self._joining.get(name, (0, None))[1] is asyncio.current_task():
                del self._joining[name]

    def _keep(self, name: str, data: bytes) -> None:
        self._files[name] = data
        self._changed.set()
        if repository_files.is_fixed(name):
            self._line.unsubscribe([topics.repository_file(name)])

    def _check_room(self, name: str, length: int) -> None:
        """Refuse what would make a hostile repository eat the memory of this device."""
        others = sum(len(data) for other, data in self._files.items() if other != name)
        others += sum(size for size, _ in self._joining.values())
        if others + length > REPOSITORY_BYTES_MAX:
            raise MessageTooLarge(
                f"with {name!r:.80} the models repository has more than "
                f"{REPOSITORY_BYTES_MAX} bytes"
            )

    def _ask_again(self, names: Iterable[str]) -> None:
        filters = [topics.repository_file(name) for name in names]
        for start in range(0, len(filters), FILTERS_PER_SUBSCRIBE_MAX):
            self._line.unsubscribe(filters[start : start + FILTERS_PER_SUBSCRIBE_MAX])
        self._subscribe(filters)  # what is retained comes once more

    def _missing(self) -> list[str]:
        return sorted((self._wanted or frozenset()) - self._files.keys())

    def _subscribe(self, filters: Iterable[str]) -> None:
        every = list(filters)
        for start in range(0, len(every), FILTERS_PER_SUBSCRIBE_MAX):
            self._line.subscribe(every[start : start + FILTERS_PER_SUBSCRIBE_MAX])
