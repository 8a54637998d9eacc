"""Which chunks lie whole on a device's disk: by themselves, or at their place in a file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from firmware_bundles import chunks
from firmware_bundles.limits import CHUNK_BYTES_MAX
from firmware_bundles.manifest import FileEntry


def chunks_in(folder: Path, entries: Iterable[FileEntry]) -> set[str]:
    """Return the digests of what is stored below `folder` of these files, and by itself."""
    found = set()
    if folder.is_dir():
        for path in folder.iterdir():
            with suppress(OSError):
                if chunks.digest_of(path.read_bytes()) == path.name:
                    found.add(path.name)
    for entry in entries:
        with suppress(OSError):
            data = (folder / f"{entry.digest}.part").read_bytes()
            for place, digest in enumerate(entry.chunks):
                piece = data[place * CHUNK_BYTES_MAX : (place + 1) * CHUNK_BYTES_MAX]
                if chunks.digest_of(piece) == digest:
                    found.add(digest)
    return found
