"""Which repository files fit a message, and how the others are cut and joined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bundles import limits
from firmware_bundles.errors import Malformed
from firmware_bundles.wire import codec, repository_files
from firmware_bundles.wire.messages import FileIndex


@pytest.mark.parametrize(
    ("name", "bytes_max", "is_fixed"),
    [
        ("1.root.json", 512_000, True),
        ("timestamp.json", 16_384, False),
        ("7.snapshot.json", 2_000_000, True),
        ("3.targets.json", 5_000_000, True),
        ("12.digits.json", 5_000_000, True),
        ("director/keys.json", 60 * 1024, False),
        ("rubbish", 60 * 1024, False),
    ],
)
def test_each_role_has_its_own_limit(name: str, bytes_max: int, *, is_fixed: bool) -> None:
    """The limits are those of the TUF client; what has its version in its name never changes."""
    assert repository_files.bytes_max(name) == bytes_max
    assert repository_files.is_fixed(name) is is_fixed


@given(st.integers(1, limits.TARGETS_BYTES_MAX), st.binary(min_size=1, max_size=32))
def test_what_is_cut_can_be_joined(length: int, pattern: bytes) -> None:
    """The index fits one message, and the file comes out as it went in."""
    data = (pattern * (length // len(pattern) + 1))[:length]
    travelling = repository_files.cut(data)
    assert (travelling is None) == (length <= limits.REPOSITORY_FILE_BYTES_MAX)
    if travelling is None:
        return
    index = codec.decode(FileIndex, codec.encode(travelling.listing))
    repository_files.check("1.digits.json", index)
    pieces = [piece.data for piece in travelling.pieces]
    assert all(len(piece) <= limits.CHUNK_BYTES_MAX for piece in pieces)
    assert repository_files.join("1.digits.json", index, pieces) == data
    with pytest.raises(Malformed):
        repository_files.join("1.digits.json", index, [*pieces, b"x"])
