"""The chunk store: whole chunks, files that grow in place, quota and room."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from agent.deployment.chunk_store import ChunkStore
from firmware_bundles.chunks import cut, digest_of
from firmware_bundles.errors import (
    ChunkCorrupt,
    DigestMismatch,
    StorageFull,
)
from firmware_bundles.limits import CHUNK_BYTES_MAX
from firmware_bundles.manifest import FileEntry


def chunk(number: int) -> tuple[str, bytes]:
    """A small chunk and its digest."""
    data = b"chunk %d" % number
    return hashlib.sha256(data).hexdigest(), data


def test_the_store_keeps_only_what_its_name_promises(tmp_path: Path) -> None:
    """A corrupt delivery is never stored; a file that rotted is fetched again."""
    store = ChunkStore(tmp_path / "chunks")
    digest, data = chunk(1)
    with pytest.raises(ChunkCorrupt):
        store.save(digest, data + b"!")
    assert not store.has(digest)
    store.save(digest, data)
    assert store.has(digest)
    (tmp_path / "chunks" / digest).write_bytes(b"rotten")
    assert not store.has(digest)
    assert not (tmp_path / "chunks" / digest).exists()


def bundle_file(data: bytes) -> FileEntry:
    """A file as a manifest lists it."""
    return FileEntry(
        name="model.tflite",
        length=len(data),
        digest=digest_of(data),
        chunks=tuple(piece.digest for piece in cut(data)),
    )


def test_an_expected_file_is_put_together_in_place(tmp_path: Path) -> None:
    """Allocated at once; whole when all its chunks came, in any order, a repeated one once."""
    data = b"a" * CHUNK_BYTES_MAX + b"b" * CHUNK_BYTES_MAX + b"a" * CHUNK_BYTES_MAX + b"end"
    entry, written = bundle_file(data), list[int]()
    store = ChunkStore(tmp_path / "chunks", on_written=written.append)
    store.expect([entry])
    assert (tmp_path / "chunks" / f"{entry.digest}.part").stat().st_size == len(data)
    for piece in sorted(set(cut(data))):
        assert not store.has(piece.digest)
        store.save(piece.digest, piece.data)
        assert store.read(piece.digest) == piece.data
    store.take(entry, tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes() == data
    assert sum(written) == len(data)
    assert list((tmp_path / "chunks").iterdir()) == []


def test_chunks_of_an_expected_file_survive_a_restart(tmp_path: Path) -> None:
    """What hashes to its digest is there; what rotted is not."""
    data = os.urandom(4 * CHUNK_BYTES_MAX + 17)
    entry, pieces = bundle_file(data), list(cut(data))
    store = ChunkStore(tmp_path)
    store.expect([entry])
    for piece in pieces[:3]:
        store.save(piece.digest, piece.data)
    with (tmp_path / f"{entry.digest}.part").open("r+b") as file:
        file.seek(CHUNK_BYTES_MAX)
        file.write(b"rot")
    again = ChunkStore(tmp_path)
    again.expect([entry])
    assert [again.has(piece.digest) for piece in pieces] == [True, False, True, False, False]


def test_a_file_that_is_not_whole_is_not_handed_over(tmp_path: Path) -> None:
    """And what is missing can be found out."""
    data = os.urandom(2 * CHUNK_BYTES_MAX)
    entry, pieces = bundle_file(data), list(cut(data))
    store = ChunkStore(tmp_path / "chunks")
    store.expect([entry])
    store.save(pieces[0].digest, pieces[0].data)
    with pytest.raises(DigestMismatch):
        store.take(entry, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()
    store.expect([entry])
    assert [store.has(piece.digest) for piece in pieces] == [True, False]


def test_chunks_of_another_version_are_copied(tmp_path: Path) -> None:
    """Only those that are still what they were."""
    old = os.urandom(3 * CHUNK_BYTES_MAX)
    new = old[: 2 * CHUNK_BYTES_MAX] + b"other" + old[2 * CHUNK_BYTES_MAX :]
    (tmp_path / "old").write_bytes(b"rot" + old[3:])
    store = ChunkStore(tmp_path / "chunks")
    store.expect([bundle_file(new)])
    assert store.adopt(tmp_path / "old", bundle_file(old)) == CHUNK_BYTES_MAX
    assert [store.has(piece.digest) for piece in cut(new)] == [False, True, False, False]


def test_a_chunk_that_came_before_its_file_was_expected_is_used(tmp_path: Path) -> None:
    """It needs not come again."""
    data = b"only one chunk"
    store = ChunkStore(tmp_path)
    store.save(digest_of(data), data)
    store.expect([bundle_file(data)])
    store.take(bundle_file(data), tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == data


@pytest.mark.parametrize(
    ("limits", "word"),
    [({"quota_bytes": 1000}, "quota"), ({"reserve_bytes": 2**60}, "free")],
)
def test_a_download_without_room_is_refused_before_its_first_byte(
    tmp_path: Path, limits: dict[str, int], word: str
) -> None:
    """By the quota or by the disk."""
    store = ChunkStore(tmp_path, **limits)  # type: ignore[arg-type]
    with pytest.raises(StorageFull, match=word):
        store.expect([bundle_file(bytes(2000))])
    assert list(tmp_path.iterdir()) == []
