"""Patches on the device: which are worth their bytes, and how they become chunks of the store.

A patch is applied in a task, which saves what it makes as the chunks that the signed manifest
lists, each verified: whatever goes wrong, only the rest is left to fetch whole. Which chunks are
fetched then, and how, is not decided here.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from agent import log
from agent.deployment import slots
from agent.deployment.downloads import Pace
from agent.task_messages import Applied, ApplyPatch
from firmware_bundles import chunks
from firmware_bundles.errors import PatchRefused, ShoalError
from firmware_bundles.limits import CHUNK_BYTES_MAX
from firmware_bundles.manifest import Manifest
from firmware_bundles.wire.messages import PatchReference, Transfer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from agent.children import Children
    from agent.deployment.chunk_store import ChunkStore
    from agent.deployment.lifecycle import Record
    from firmware_bundles.manifest import FileEntry

    Fetch = Callable[[Sequence[str], Pace], Awaitable[None]]

# A patch whose chunks do not come for so many stall times is given up: the file is there as well.
_STALLS_MAX: Final = 12
_READ_BYTES: Final = 1024 * 1024


class Choice(NamedTuple):
    """A patch that is worth its bytes: the file it makes, its source, what is yet to come of it."""

    patch: PatchReference
    entry: FileEntry
    source: Path
    cost: int


class Patching(Protocol):
    """What the steps need."""

    async def apply(self, record: Record, facts: Manifest, fetch: Fetch) -> Transfer:
        """Put into the store what patches can make of the bundle, bringing them with `fetch`."""


def choose(
    facts: Manifest,
    patches: Sequence[PatchReference],
    *,
    lacking: Collection[str],
    sources: Mapping[str, Path],
    costs: Mapping[str, int],
) -> list[Choice]:
    """Return, for each file, the patch that costs least, if it costs less than what lacks of it.

    `lacking` are the chunks that are not here, `sources` the files of this device by their digest,
    `costs` the bytes of each patch, by its content, that are still to come. Budgets do not count
    here: an update that is over its budget waits, it does not become a dearer one.
    """
    chosen: list[Choice] = []
    sizes = facts.chunk_bytes()
    for entry in facts.files:
        wanted = sum(sizes[digest] for digest in set(entry.chunks) & set(lacking))
        fitting = [
            Choice(patch, entry, sources[patch.source], costs[patch.content])
            for patch in patches
            if patch.file == entry.name and patch.source in sources
        ]
        best = min(fitting, key=lambda choice: choice.cost, default=None)
        if best is not None and best.cost < wanted:
            chosen.append(best)
    return chosen


class SlotPatching:
    """Fetches and applies the patches of one order, one after the other."""

    def __init__(
        self,
        root: Path,
        *,
        store: ChunkStore,
        children: Children,
        stall_s: float,
        detect: Callable[[ShoalError], None],
    ) -> None:
        self._root = root
        self._store = store
        self._children = children
        self._pace = Pace(silent_s_max=_STALLS_MAX * stall_s)
        self._detect = detect

    async def apply(self, record: Record, facts: Manifest, fetch: Fetch) -> Transfer:
        """Put into the store what patches can make of the bundle.

        One that fails in any way is detected, and what lacks then is fetched whole by the caller.
        """
        total = Transfer()
        if not record.patches:
            return total
        for choice in await asyncio.to_thread(self._choose, record, facts):
            try:
                saved = await self._apply(record.family, choice, fetch)
            except ShoalError as error:
                log.event("patch-failed", family=record.family, code=error.code)
                refused = f"the patch for {choice.entry.name} of {record.model.path} is not used"
                self._detect(PatchRefused(f"{refused}: {error.message}"))
                continue
            total = Transfer(
                patch_bytes=total.patch_bytes + choice.cost,
                saved_bytes=total.saved_bytes + saved,
            )
        return total

    def _choose(self, record: Record, facts: Manifest) -> list[Choice]:
        lacking = {digest for digest in facts.chunks() if not self._store.has(digest)}
        wanted = {patch.source for patch in record.patches}
        sources = dict(_sources(self._root, record.family, wanted))
        costs = {patch.content: self._cost(patch) for patch in record.patches}
        return choose(facts, record.patches, lacking=lacking, sources=sources, costs=costs)

    def _cost(self, patch: PatchReference) -> int:
        """Return how many bytes of a patch are not here: after a restart, it may be all here."""
        if not self._store.has(patch.content):
            return patch.length
        if not chunks.needs_index(patch.length):
            return 0
        try:
            index = chunks.parse_index(self._store.read(patch.content), patch.length)
        except ShoalError:
            return patch.length
        there = sum(self._store.has(digest) for digest in index.chunks)
        return max(0, patch.length - there * CHUNK_BYTES_MAX)

    async def _apply(self, family: str, choice: Choice, fetch: Fetch) -> int:
        """Return the bytes that were saved. Raises ShoalError."""
        patch, entry, source, cost = choice
        pieces = await self._fetch(patch, fetch)
        request = ApplyPatch(
            chunks_dir=str(self._store.directory),
            source=str(source),
            patch=pieces,
            target=entry,
        )
        try:
            applied = await self._children.run(request, Applied)
        finally:
            await asyncio.to_thread(self._store.look_again, entry)
        saved = applied.bytes - cost
        log.event(
            "patch-applied",
            family=family,
            file=entry.name,
            source=patch.source[:12],
            patch_bytes=cost,
            bytes=applied.bytes,
            saved_bytes=saved,
        )
        return saved

    async def _fetch(self, patch: PatchReference, fetch: Fetch) -> tuple[str, ...]:
        """Return the patch's chunks, all in the store."""
        await fetch([patch.content], self._pace)
        if not chunks.needs_index(patch.length):
            return (patch.content,)
        data = await asyncio.to_thread(self._store.read, patch.content)
        index = chunks.parse_index(data, patch.length)
        await fetch(index.chunks, self._pace)
        return index.chunks


def _sources(root: Path, family: str, wanted: Collection[str]) -> Iterator[tuple[str, Path]]:
    """Yield those wanted files of the family's slots that are whole, by digest."""
    for name in slots.NAMES:
        slot = slots.slot(root, family, name)
        for entry in slots.listed(slot):
            path = slot.directory / entry.name
            if entry.digest in wanted and _digest_of(path) == entry.digest:
                yield entry.digest, path


def _digest_of(path: Path) -> str | None:
    hashed = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                hashed.update(piece)
    except OSError:
        return None
    return hashed.hexdigest()
