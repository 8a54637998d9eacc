"""Patches: any two files round trip, and nothing but the signed target ever comes out whole."""

from __future__ import annotations

import io
import random
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firmware_bundles import chunks, patches
from firmware_bundles.errors import Malformed, PatchRefused
from firmware_bundles.limits import CHUNK_BYTES_MAX, FILE_BYTES_MAX


def applied(patch: bytes, source: bytes, target: bytes) -> bytes:
    """What a patch makes of a source that shall become the target."""
    pieces = patches.apply(
        io.BytesIO(patch), io.BytesIO(source), digest=chunks.digest_of(target), length=len(target)
    )
    return b"".join(pieces)


def weights(count: int, seed: int = 1) -> bytes:
    """Bytes like those of int8 weights."""
    draw = random.Random(seed)
    return bytes(round(draw.gauss(0, 30)) % 256 for _ in range(count))


def stepped(data: bytes, share: float = 0.3) -> bytes:
    """The same weights after some steps of training: a share of them one up or down."""
    draw = random.Random(2)
    return bytes(
        (byte + draw.choice((-1, 1))) % 256 if draw.random() < share else byte for byte in data
    )


@given(source=st.binary(max_size=5000), target=st.binary(max_size=5000))
@example(source=b"", target=b"")
@example(source=b"\xff" * 4097, target=b"\x01" * 4097)
def test_any_target_follows_from_any_source(source: bytes, target: bytes) -> None:
    """Whatever the two files are, also empty ones."""
    assert applied(patches.create(source, target), source, target) == target


@given(data=st.data(), size=st.integers(0, 3000))
def test_what_was_inserted_or_removed_anywhere_is_found(data: st.DataObject, size: int) -> None:
    """A shift of all that lies behind changes nothing for the rest."""
    source = weights(4 * CHUNK_BYTES_MAX // 3)
    place = data.draw(st.integers(0, len(source)))
    longer = source[:place] + b"\x07" * size + source[place:]
    patch, back = patches.create(source, longer), patches.create(longer, source)
    assert applied(patch, source, longer) == longer
    assert applied(back, longer, source) == source
    assert max(len(patch), len(back)) < 0.1 * len(source)


def test_a_head_only_change_costs_little_more_than_the_head() -> None:
    """Long runs of equal bytes are nearly free."""
    source = weights(200_000)
    target = source[:-4_000] + weights(4_000, seed=3)
    assert len(patches.create(source, target)) < 4_000 + 300


def test_weights_that_moved_by_a_step_cost_a_fraction() -> None:
    """Where a search for equal blocks finds nothing."""
    source = weights(100_000)
    assert len(patches.create(source, stepped(source))) < 0.2 * len(source)


def test_a_patch_between_strangers_is_never_much_longer_than_the_target() -> None:
    """The publisher may then see that it is not worth its bytes."""
    source, target = random.Random(1).randbytes(50_000), random.Random(2).randbytes(50_000)
    assert len(patches.create(source, target)) < len(target) + 200


SOURCE = weights(3_000)
TARGET = stepped(SOURCE)
PATCH = patches.create(SOURCE, TARGET)


@given(place=st.integers(0, len(PATCH) - 1), byte=st.integers(0, 255))
def test_a_patch_with_a_changed_byte_is_refused_or_makes_the_target(place: int, byte: int) -> None:
    """Never anything else, and never another kind of error."""
    mutant = PATCH[:place] + bytes([byte]) + PATCH[place + 1 :]
    try:
        assert applied(mutant, SOURCE, TARGET) == TARGET
    except PatchRefused:
        assert mutant != PATCH


@given(data=st.binary(max_size=400), kept=st.integers(0, len(PATCH) - 1))
def test_foreign_cut_or_prolonged_bytes_are_refused(data: bytes, kept: int) -> None:
    """With the one error that lets the device fetch the whole file."""
    for mutant in (data, PATCH[:kept], PATCH + b"\0", PATCH[:kept] + data):
        if mutant == PATCH:
            continue
        with pytest.raises(PatchRefused):
            applied(mutant, SOURCE, TARGET)


def test_a_patch_whose_difference_ends_too_early_is_refused() -> None:
    """Also by a single byte: the header may say anything of the target's length."""
    patch = patches.create(b"", SOURCE)
    short = patches.create(b"", SOURCE[:-1])
    header_bytes = 2 + int.from_bytes(patch[:2], "big")
    short_header_bytes = 2 + int.from_bytes(short[:2], "big")
    with pytest.raises(PatchRefused, match="cut short"):
        applied(patch[:header_bytes] + short[short_header_bytes:], b"", SOURCE)


def test_a_patch_for_another_source_is_refused() -> None:
    """At the latest when the digest of what it made is known."""
    with pytest.raises(PatchRefused, match="did not make"):
        applied(PATCH, stepped(SOURCE, 0.01), TARGET)
    with pytest.raises(PatchRefused, match="behind the end"):
        applied(PATCH, SOURCE[:-1], TARGET)


def test_a_patch_for_another_target_is_refused_before_anything_is_made() -> None:
    """What the manifest wants decides, not what the patch says."""
    with pytest.raises(PatchRefused, match="makes"):
        applied(PATCH, SOURCE, SOURCE)


def test_a_bomb_makes_no_more_than_its_target_and_keeps_memory_bounded() -> None:
    """Forty-eight megabytes of zeros fit some kilobytes; they are never held at once."""
    zeros = bytes(FILE_BYTES_MAX)
    patch = patches.create(b"", zeros)
    assert len(patch) < 20_000
    digest = chunks.digest_of(zeros)
    del zeros
    tracemalloc.start()
    try:
        pieces = patches.apply(
            io.BytesIO(patch), io.BytesIO(), digest=digest, length=FILE_BYTES_MAX
        )
        assert sum(map(len, pieces)) == FILE_BYTES_MAX
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=3 * CHUNK_BYTES_MAX))
@example(b"x" * CHUNK_BYTES_MAX)
@example(b"x" * (CHUNK_BYTES_MAX + 1))
def test_content_is_found_by_its_one_digest(data: bytes) -> None:
    """By itself where it fits one chunk, by its index otherwise."""
    if not data:
        return
    content = chunks.pack(data)
    kept = dict(content.chunks)
    if not chunks.needs_index(len(data)):
        assert kept[content.digest] == data
        return
    index = chunks.parse_index(kept[content.digest], len(data))
    assert b"".join(kept[digest] for digest in index.chunks) == data
    with pytest.raises(Malformed):
        chunks.parse_index(kept[content.digest], len(data) + CHUNK_BYTES_MAX)


@given(st.binary(max_size=300))
def test_a_foreign_index_is_refused(data: bytes) -> None:
    """With a stable error."""
    with pytest.raises(Malformed):
        chunks.parse_index(data, CHUNK_BYTES_MAX + 1)
