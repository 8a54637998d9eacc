"""Telling devices over MQTT what the repository holds: retained messages, the hint last.

Bytes were checked and stored before; saying them twice harms nobody. Which chunks are said is
decided in `retention`.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import UNSET

from control_plane.releases import retention
from control_plane.releases.retention import Choice, Piece
from firmware_bundles import manifest
from firmware_bundles.trust import publisher, roles
from firmware_bundles.wire import codec, repository_files, topics
from firmware_bundles.wire.messages import RepositoryHint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from control_plane.releases.chunk_files import ChunkFiles
    from control_plane.releases.repository import ModelsRepository
    from control_plane.store.patches import Patches
    from control_plane.store.releases import ReleaseRow, Releases

_LOG: Final = logging.getLogger(__name__)


class Publish(Protocol):
    """Sends one message, at least once."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send `payload` to `topic`; an empty retained one clears it."""


class Publisher:
    """Keeps the broker's retained messages equal to the repository, chunks up to a limit."""

    def __init__(
        self,
        repository: ModelsRepository,
        releases: Releases,
        chunk_files: ChunkFiles,
        publish: Publish,
        patches: Patches,
        *,
        retained_bytes_max: int,
    ) -> None:
        self._repository = repository
        self._releases = releases
        self._chunks = chunk_files
        self._publish = publish
        self._patches = patches
        self._said_patches: set[str] = set()
        self.retained_bytes_max = retained_bytes_max
        self._choice = Choice()
        self._said_chunks: set[str] = set()
        # The files that were said last, and those that left before that: each with its chunks. What
        # the process before this one said may still be retained.
        self._said = {name: _chunks_of(data) for name, data in repository.files().items()}
        self._retired: dict[str, frozenset[str]] = {}
        self._cleared_chunks: set[str] = set()
        self._turn = threading.Lock()
        self.announcements = 0

    @property
    def choice(self) -> Choice:
        """The chunks that the last announcement retained, and those that it left out."""
        return self._choice

    def announce(self) -> None:
        """Say everything: at start, and whenever the broker may have lost what it retained."""
        with self._turn:
            self._said_chunks.clear()
            self._cleared_chunks.clear()
            self._announce()

    def announce_changes(self) -> None:
        """Say what is new since the last announcement: after a release, after a renewal."""
        with self._turn:
            self._announce()

    def _announce(self) -> None:
        """Send chunks with those of patches, roles, snapshot, timestamp and hint, in this order.

        A device that follows the previous hint may still be fetching: what left the repository is
        cleared only at the announcement after the next.
        """
        rows = self._releases.list()
        self._choose(rows)
        patched = self._patch_chunks()
        retained = dict.fromkeys(piece.digest for piece in self._choice.retained)
        self._say_chunks((*retained, *sorted(patched)))
        self._say_files()
        known = {piece.digest for row in rows for piece in _pieces(row)} | self._said_patches
        self._clear_chunks(known - retained.keys() - patched)
        self._said_patches = patched
        self.announcements += 1

    def _choose(self, rows: Iterable[ReleaseRow]) -> None:
        allowed = [row for row in rows if not row.is_withdrawn]
        allowed.sort(key=lambda row: (row.published, row.number), reverse=True)
        chosen = retention.choose(map(_pieces, allowed), self.retained_bytes_max)
        if chosen.left_out and chosen.left_out != self._choice.left_out:
            _LOG.warning(
                "chunks are left to HTTPS count=%d bytes=%d retained_bytes_max=%d",
                len(chosen.left_out),
                retention.bytes_of(chosen.left_out),
                self.retained_bytes_max,
            )
        self._choice = chosen

    def _say_chunks(self, digests: Iterable[str]) -> None:
        for digest in digests:
            if digest not in self._said_chunks:
                self._publish(topics.chunk(digest), self._chunks.get(digest), retain=True)
                self._said_chunks.add(digest)
                self._cleared_chunks.discard(digest)

    def _clear_chunks(self, digests: Iterable[str]) -> None:
        """Take back what is not retained any more; a broker may remember it from another life."""
        for digest in sorted(set(digests) - self._cleared_chunks):
            self._publish(topics.chunk(digest), b"", retain=True)
            self._cleared_chunks.add(digest)
            self._said_chunks.discard(digest)

    def _say_files(self) -> None:
        files = self._repository.files()
        if not files:
            return
        said = {name: self._say_file(name, files[name]) for name in sorted(files, key=_order)}
        hint = RepositoryHint(
            root=publisher.describe(self._repository.root()).version,
            files=tuple(sorted(files)),
            indexed=tuple(sorted(name for name, digests in said.items() if digests)) or UNSET,
        )
        self._publish(topics.REPOSITORY_HINT, codec.encode(hint), retain=True)
        self._clear_retired(said)
        self._retired = {name: self._said[name] for name in self._said.keys() - said.keys()}
        self._said = said

    def _say_file(self, name: str, data: bytes) -> frozenset[str]:
        """Say a file, or its chunks and then their index; return the chunks' digests."""
        travelling = repository_files.cut(data)
        if travelling is None:
            self._publish(topics.repository_file(name), data, retain=True)
            return frozenset()
        for digest, piece in travelling.pieces:
            if digest not in self._said_chunks:
                self._publish(topics.chunk(digest), piece, retain=True)
                self._said_chunks.add(digest)
        index = codec.encode(travelling.listing)
        self._publish(topics.repository_file(name), index, retain=True)
        return frozenset(travelling.listing.chunks)

    def _clear_retired(self, said: Mapping[str, frozenset[str]]) -> None:
        kept = frozenset[str]().union(*said.values(), *self._said.values())
        for name in self._retired.keys() - said.keys():
            self._publish(topics.repository_file(name), b"", retain=True)
            for digest in self._retired[name] - kept:
                self._publish(topics.chunk(digest), b"", retain=True)
                self._said_chunks.discard(digest)

    def _patch_chunks(self) -> set[str]:
        """Return the chunks of whole patches; one that has lost some holds up no release."""
        whole = (r.chunks for r in self._patches.rows() if not self._chunks.missing(r.chunks))
        return {digest for digests in whole for digest in digests}


def _pieces(row: ReleaseRow) -> Iterable[Piece]:
    return retention.pieces(row.digest, row.length, manifest.parse(row.manifest))


def _chunks_of(data: bytes) -> frozenset[str]:
    """Return the digests of the chunks in which a file travels; none if it fits a message."""
    travelling = repository_files.cut(data)
    return frozenset() if travelling is None else frozenset(travelling.listing.chunks)


def _order(name: str) -> tuple[int, str]:
    """Return a key that puts what refers after what it refers to (TUF 5.3 read backwards)."""
    last = {"targets.json": 1, "snapshot.json": 2, roles.TIMESTAMP_FILE: 3}
    return last.get(name.split(".", 1)[-1] if name[:1].isdigit() else name, 0), name
