"""Patches on the device: which are worth their bytes, and how they become chunks of the store.

A patch is applied in a task, which saves what it makes as the chunks that the signed manifest
lists, each verified: whatever goes wrong, only the rest is left to fetch whole. Which chunks are
fetched then, and how, is not decided here.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from agent import log
from agent.deployment import slots
from agent.task_messages import Applied, ApplyPatch
from firmware_bundles import chunks
from firmware_bundles.errors import ChunkMissing, PatchRefused, ShoalError
from firmware_bundles.limits import CHUNK_BYTES_MAX
from firmware_bundles.manifest import Manifest
from firmware_bundles.wire.messages import PatchReference, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from agent.children import Children
    from agent.deployment.downloads import Downloads
    from agent.deployment.lifecycle import Record
    from firmware_bundles.manifest import FileEntry

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

    async def apply(self, record: Record, facts: Manifest) -> Transfer:
        """Put into the store what patches can make of the bundle; never raises ShoalError."""


def choose(
    facts: Manifest,
    patches: Sequence[PatchReference],
    *,
    lacking: Collection[str],
    sources: Mapping[str, Path],
    costs: Mapping[str, int],
    allowed_bytes: int | None = None,
) -> list[Choice]:
    """Return, for each file, the patch that costs least, if it costs less than what lacks of it.

    `lacking` are the chunks that are not here, `sources` the files of this device by their digest,
    `costs` the bytes of each patch, by its content, that are still to come. All that is chosen
    together costs at most `allowed_bytes` (None: no limit).
    """
    chosen: list[Choice] = []
    sizes = facts.chunk_bytes()
    left = sys.maxsize if allowed_bytes is None else allowed_bytes
    for entry in facts.files:
        wanted = sum(sizes[digest] for digest in set(entry.chunks) & set(lacking))
        fitting = [
            Choice(patch, entry, sources[patch.source], costs[patch.content])
            for patch in patches
            if patch.file == entry.name and patch.source in sources
        ]
        best = min(fitting, key=lambda choice: choice.cost, default=None)
        if best is not None and best.cost < wanted and best.cost <= left:
            chosen.append(best)
            left -= best.cost
    return chosen


class SlotPatching:
    """Fetches and applies the patches of one order, one after the other."""

    def __init__(
        self,
        root: Path,
        *,
        downloads: Downloads,
        children: Children,
        stall_s: float,
        detect: Callable[[ShoalError], None],
    ) -> None:
        self._root = root
        self._store = downloads.store
        self._downloads = downloads
        self._children = children
        self._patience_s = _STALLS_MAX * stall_s
        self._detect = detect

    async def apply(self, record: Record, facts: Manifest) -> Transfer:
        """Put into the store what patches can make of the bundle.

        One that fails in any way is detected, and what lacks then is fetched whole by the caller.
        """
        total = Transfer()
        if not record.patches:
            return total
        for choice in await asyncio.to_thread(self._choose, record, facts):
            try:
                saved = await self._apply(record.family, choice)
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

    async def _apply(self, family: str, choice: Choice) -> int:
        """Return the bytes that were saved. Raises ShoalError."""
        patch, entry, source, cost = choice
        pieces = await self._fetch(patch)
        request = ApplyPatch(
            chunks_dir=str(self._store.directory),
            source=str(source),
            patch=pieces,
            target=entry,
        )
        applied = await self._children.run(request, Applied)
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

    async def _fetch(self, patch: PatchReference) -> tuple[str, ...]:
        """Return the patch's chunks, all in the store."""
        await self._fetch_chunks([patch.content])
        if not chunks.needs_index(patch.length):
            return (patch.content,)
        data = await asyncio.to_thread(self._store.read, patch.content)
        index = chunks.parse_index(data, patch.length)
        await self._fetch_chunks(index.chunks)
        return index.chunks

    async def _fetch_chunks(self, digests: Sequence[str]) -> None:
        """Fetch chunks; while the line is up, one must come within the patience. ChunkMissing."""
        waiting = {asyncio.ensure_future(self._downloads.fetch([each])) for each in set(digests)}
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED
                )
                for each in done:
                    each.result()
                if not done and self._downloads.is_up:
                    raise ChunkMissing(f"{len(waiting)} chunks of a patch do not come")
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


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
