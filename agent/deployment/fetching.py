"""Brings the files of a release to this device, and into a slot: only what is not here already.

What is shared with the models in the slots is copied, not fetched. An update that may not use the
device now waits, says what for, and looks again. Where chunks come from stands in `downloads`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from agent import log
from agent.deployment import slots
from agent.deployment.downloads import Pace
from firmware_bundles import capabilities, manifest
from firmware_bundles.errors import DigestMismatch, ManifestInvalid, NeedsUnmet
from firmware_bundles.wire.messages import Arm, Delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.deployment.chunk_store import ChunkStore
    from agent.deployment.conditions import Permission
    from agent.deployment.downloads import Downloads
    from agent.deployment.lifecycle import Record
    from agent.deployment.patching import Patching
    from agent.deployment.steps import Notes
    from firmware_bundles.capabilities import Capabilities
    from firmware_bundles.manifest import FileEntry, Manifest
    from firmware_bundles.wire.messages import Conditions

    Judge = Callable[[Conditions, int, bool], Permission]

# Conditions are looked at again after so many chunks, and while waiting after so many seconds.
_PORTION_CHUNKS: Final = 64
RECHECK_S: Final = 30.0
_FILLS_MAX: Final = 3


class Fetching:
    """The network's and the disk's part of a deployment."""

    def __init__(
        self,
        root: Path,
        store: ChunkStore,
        downloads: Downloads,
        patching: Patching,
        judge: Judge,
        *,
        offered: Callable[[], Capabilities],
        recheck_s: float = RECHECK_S,
    ) -> None:
        self._root = root
        self._store = store
        self._downloads = downloads
        self._patching = patching
        self._judge = judge
        self._offered = offered
        self._recheck_s = recheck_s

    async def bring(self, record: Record, notes: Notes) -> None:
        """Return when all files of the release are on this disk and may be installed now.

        Raises NeedsUnmet, with only the manifest fetched, where this device cannot run the model.
        """
        await self._allowed(record, record.model.length, notes)
        facts = await self._manifest(record)
        if lacks := capabilities.lacking(facts.needs, await asyncio.to_thread(self._offered)):
            raise NeedsUnmet(f"{record.model.path} cannot run here: {'; '.join(lacks)}")
        await asyncio.to_thread(self._expect, record.family, facts.files)

        async def fetch(digests: Sequence[str], pace: Pace) -> None:
            await self._fetch(record, digests, pace, notes)

        transfer = await self._patching.apply(record, facts, fetch)
        sizes = facts.chunk_bytes()
        lacking = await asyncio.to_thread(self._downloads.lacking, facts.chunks())
        delivery = _delivery(record)
        await fetch(lacking, Pace(delivery.download_s_max, delivery.rate_bytes_per_s_min))
        fetched = sum(sizes[digest] for digest in lacking)
        notes.transfer(
            msgspec.structs.replace(transfer, chunk_bytes=transfer.chunk_bytes + fetched)
        )
        await asyncio.to_thread(self._store.sync)

    async def fill(self, record: Record, slot: slots.Slot) -> None:
        """Put the release into a slot; what is not on the disk any more is fetched again."""
        facts = await self._manifest(record)
        for attempt in range(1, _FILLS_MAX + 1):
            entries = await asyncio.to_thread(slots.lacking, slot, facts.files)
            await asyncio.to_thread(self._expect, record.family, entries)
            chunks = [digest for entry in entries for digest in entry.chunks]
            await self._downloads.fetch(chunks)  # at once, unless some were lost since
            try:
                await asyncio.to_thread(self._fill, slot, record.model.digest, facts)
            except DigestMismatch:  # a chunk changed on the disk after it was checked
                if attempt == _FILLS_MAX:
                    raise
            else:
                return

    def clear(self) -> None:
        """Forget what was fetched: it lies in the slots, or nobody wants it."""
        self._downloads.clear()

    async def _fetch(
        self, record: Record, digests: Sequence[str], pace: Pace, notes: Notes
    ) -> None:
        """Fetch chunks portion by portion, each when conditions and budgets allow it."""
        while True:
            lacking = await asyncio.to_thread(self._downloads.lacking, digests)
            wanted = sum(self._store.length(digest) for digest in lacking)
            bytes_max = await self._allowed(record, wanted, notes)
            if not lacking:
                return
            await self._downloads.fetch(self._portion(lacking, bytes_max), pace)

    async def _manifest(self, record: Record) -> Manifest:
        await self._downloads.fetch([record.model.digest])
        data = await asyncio.to_thread(self._store.read, record.model.digest)
        facts = manifest.parse(data)
        promised = (record.model.path, record.model.length)
        if (f"{facts.family}/{facts.version}/manifest.json", len(data)) != promised:
            raise ManifestInvalid(
                f"the manifest under {record.model.path} is of {facts.family} {facts.version}"
            )
        return facts

    async def _allowed(self, record: Record, wanted: int, notes: Notes) -> int | None:
        """Return how many bytes may be fetched now, after waiting until the update may go on."""
        # Who rolls a fleet back does not wait for the night.
        is_urgent = record.arm is Arm.ROLLBACK
        while True:
            permission = await asyncio.to_thread(
                self._judge, _delivery(record).conditions, wanted, is_urgent
            )
            if not permission.waits_for:
                notes.wait(None)
                return permission.bytes_max
            waits_for = "; ".join(permission.waits_for)
            log.event("update-waits", family=record.family, waits_for=waits_for)
            notes.wait(waits_for)
            await asyncio.sleep(self._recheck_s)

    def _portion(self, lacking: Sequence[str], bytes_max: int | None) -> list[str]:
        """Return the next chunks; the last may go over the budget by less than its length."""
        portion: list[str] = []
        total = 0
        for digest in lacking[:_PORTION_CHUNKS]:
            if bytes_max is not None and total >= bytes_max:
                break
            portion.append(digest)
            total += self._store.length(digest)
        return portion

    def _expect(self, family: str, entries: Sequence[FileEntry]) -> None:
        self._store.expect(entries)
        saved = 0
        for name in slots.NAMES:
            slot = slots.slot(self._root, family, name)
            for entry in slots.listed(slot):
                saved += self._store.adopt(slot.directory / entry.name, entry)
        if saved:
            log.event("chunks-shared", family=family, bytes=saved)

    def _fill(self, slot: slots.Slot, digest: str, facts: Manifest) -> None:
        slots.fill(slot, self._store.read(digest), facts.files, self._store.take)
        slots.read(slot)


def _delivery(record: Record) -> Delivery:
    return record.policy.delivery or Delivery()
