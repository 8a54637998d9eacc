"""Which releases there are, and what stands in their bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from firmware_bundles import chunks, manifest
from firmware_bundles.errors import NotFound
from firmware_bundles.identifiers import target_path

if TYPE_CHECKING:
    from control_plane.releases.chunk_files import ChunkFiles
    from control_plane.store.releases import ReleaseRow, Releases
    from firmware_bundles.manifest import Manifest


class Release(NamedTuple):
    """A release; `digest` and `length` are of its manifest and name the model everywhere."""

    path: str
    family: str
    version: str
    number: int
    digest: str
    length: int
    is_withdrawn: bool
    published: float


class Registry:
    """Answers questions about releases."""

    def __init__(self, releases: Releases, chunk_files: ChunkFiles) -> None:
        self._releases = releases
        self._chunks = chunk_files

    def get(self, path: str) -> Release:
        """Return the release with this path. Raises NotFound."""
        row = self._releases.get(path)
        if row is None:
            raise NotFound(
                f"there is no release {path!r:.140}", hint="See them all: shoal release list."
            )
        return _release(row)

    def find(self, family: str, version: str) -> Release:
        """Return the release of `family` at `version`. Raises NotFound, Malformed."""
        return self.get(target_path(family, version))

    def by_digest(self, digest: str) -> Release | None:
        """Return the release whose manifest has this digest, if it is one of ours."""
        row = self._releases.by_digest(digest)
        return None if row is None else _release(row)

    def list(self, family: str | None = None) -> list[Release]:
        """Return releases by family, oldest first."""
        return [_release(row) for row in self._releases.list(family)]

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest with this digest. Raises NotFound."""
        row = self._releases.by_digest(digest)
        if row is None:
            raise NotFound(f"no release has a manifest {digest[:12]!r}")
        return manifest.parse(row.manifest)

    def file(self, digest: str, name: str) -> bytes:
        """Return a file of the bundle whose manifest has this digest.

        `name` must be one that the manifest lists. Raises NotFound, ChunkMissing, DigestMismatch.
        """
        entry = self.manifest(digest).file(name)
        return chunks.join(entry.digest, (self._chunks.get(chunk) for chunk in entry.chunks))


def _release(row: ReleaseRow) -> Release:
    return Release(
        path=row.path,
        family=row.family,
        version=row.version,
        number=row.number,
        digest=row.digest,
        length=row.length,
        is_withdrawn=row.is_withdrawn,
        published=row.published,
    )
