"""Makes patches in the background, one pair of releases at a time, and forgets those of no use.

Nothing waits for it: a device that is told to update before a patch is there fetches the chunks.
Which pairs are worth it is decided by `patch_plan`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from control_plane.releases import patch_plan
from control_plane.store.patches import Pair, PatchRow
from firmware_bundles import chunks, patches
from firmware_bundles.errors import ShoalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from control_plane.releases.chunk_files import ChunkFiles
    from control_plane.releases.registry import Registry
    from control_plane.store.patches import Patches

_LOG: Final = logging.getLogger(__name__)


class PatchMaker:
    """Keeps the stored patches to what the fleet needs; `announce` tells the broker."""

    def __init__(
        self,
        store: Patches,
        registry: Registry,
        chunk_files: ChunkFiles,
        *,
        announce: Callable[[], None],
        bytes_max: int,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._registry = registry
        self._chunks = chunk_files
        self._announce = announce
        self._bytes_max = bytes_max
        self._clock = clock
        # Pairs without any file to make a patch of leave no row.
        self._barren: set[Pair] = set()
        self._is_checked = False

    def tick(self) -> None:
        """Forget what is of no use any more, and make one pair's patches."""
        made = self._store.rows()
        if not self._is_checked:
            self._is_checked = True
            made = self._check(made)
        fleet = patch_plan.Fleet(self._store.running(), self._store.wanted())
        plan = patch_plan.plan(self._registry.list(), fleet, made, self._bytes_max)
        if plan.drop:
            self._drop(plan.drop, made)
        pair = next((pair for pair in plan.make if pair not in self._barren), None)
        if pair is None:
            return
        try:
            rows = list(self._make(pair))
        except ShoalError as error:  # a chunk of an old release is gone: the others go on
            _LOG.warning("no patch code=%s reason=%s", error.code, error.message)
            rows = []
        self._store.replace(pair, rows)
        if not rows:
            self._barren.add(pair)
        if any(row.content for row in rows):
            self._announce()

    def _check(self, made: list[PatchRow]) -> list[PatchRow]:
        """Forget at start what has lost its chunks, as after a restore: it is made again."""
        lost = frozenset(row.pair for row in made if self._chunks.missing(row.chunks))
        if lost:
            self._drop(lost, made)
        return [row for row in made if row.pair not in lost]

    def _make(self, pair: Pair) -> Iterator[PatchRow]:
        """Yield what came out for each file that both releases have in different versions."""
        source, target = self._registry.manifest(pair.source), self._registry.manifest(pair.target)
        former = {entry.name: entry for entry in source.files}
        for entry in target.files:
            before = former.get(entry.name)
            if before is None or before.digest == entry.digest:
                continue
            if entry.length < patch_plan.PATCHED_BYTES_MIN:
                continue
            data = patches.create(
                self._registry.file(pair.source, entry.name),
                self._registry.file(pair.target, entry.name),
            )
            is_worth = patch_plan.is_worth(len(data), entry.length)
            content = self._keep(data) if is_worth else None
            _LOG.info(
                "patch made file=%s source=%s target=%s bytes=%d full=%d kept=%s",
                entry.name,
                source.version,
                target.version,
                len(data),
                entry.length,
                str(is_worth).lower(),
            )
            yield PatchRow(
                source=pair.source,
                target=pair.target,
                file=entry.name,
                source_file=before.digest,
                content=content.digest if content else None,
                chunks=[chunk.digest for chunk in content.chunks] if content else [],
                length=len(data),
                full_length=entry.length,
                made=self._clock(),
            )

    def _keep(self, data: bytes) -> chunks.Content:
        content = chunks.pack(data)
        for digest, piece in content.chunks:
            self._chunks.put(digest, piece)
        return content

    def _drop(self, pairs: frozenset[Pair], made: list[PatchRow]) -> None:
        """Forget patches: first nobody is told of them, then the broker, then the disk."""
        self._store.remove(pairs)
        self._announce()
        kept = {digest for row in made if row.pair not in pairs for digest in row.chunks}
        gone = {digest for row in made if row.pair in pairs for digest in row.chunks} - kept
        for digest in gone:
            self._chunks.remove(digest)
        _LOG.info("patches forgotten pairs=%d chunks=%d", len(pairs), len(gone))
