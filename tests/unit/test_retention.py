"""Which chunks the broker retains, under a limit of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.releases import retention
from control_plane.releases.retention import Piece
from firmware_bundles import chunks
from firmware_bundles.limits import CHUNK_BYTES_MAX
from support.bundles import Sample

SIZES = {digest: 1 + ord(digest) % 7 for digest in "abcdefghij"}
RELEASES = st.lists(st.lists(st.sampled_from(sorted(SIZES)), max_size=6), max_size=6)


@given(releases=RELEASES, bytes_max=st.integers(0, 60))
def test_never_more_than_the_limit_and_the_newest_first(
    releases: list[list[str]], bytes_max: int
) -> None:
    """Each chunk is retained or left out, once; what is left out is never newer than what is in."""
    newest_first = [[Piece(digest, SIZES[digest]) for digest in each] for each in releases]
    chosen = retention.choose(newest_first, bytes_max)
    order = list(dict.fromkeys(digest for each in releases for digest in each))
    assert [piece.digest for piece in (*chosen.retained, *chosen.left_out)] == order
    assert retention.bytes_of(chosen.retained) <= bytes_max
    if chosen.left_out:
        first = chosen.left_out[0]
        assert retention.bytes_of(chosen.retained) + first.size > bytes_max


def test_a_chunk_of_two_releases_counts_once() -> None:
    """A newer release that shares a chunk leaves room for the rest of the older one."""
    shared, own = Piece("s", 5), Piece("o", 5)
    chosen = retention.choose([[shared], [shared, own]], 10)
    assert chosen == retention.Choice((shared, own), ())


def test_the_pieces_of_a_release_have_the_sizes_of_its_chunks() -> None:
    """The manifest is the first; all but a file's last chunk are full."""
    sample = Sample("v1")
    sample.files["model.tflite"] = bytes(range(256)) * 300
    document = sample.manifest()
    found = list(retention.pieces("m" * 64, 77, document))
    assert found[0] == Piece("m" * 64, 77)
    real = [each for entry in document.files for each in chunks.cut(sample.files[entry.name])]
    assert found[1:] == [Piece(each.digest, len(each.data)) for each in real]
    assert {CHUNK_BYTES_MAX, 256 * 300 - CHUNK_BYTES_MAX} <= {piece.size for piece in found}
