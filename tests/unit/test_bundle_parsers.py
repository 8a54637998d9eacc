"""Whatever bytes arrive: parsers of manifests, golden vectors and chunks refuse with our errors."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bundles import chunks, golden, limits, manifest
from firmware_bundles.errors import (
    ChunkCorrupt,
    DigestMismatch,
    ManifestInvalid,
    ShoalError,
    VersionUnsupported,
)

DOCUMENT: dict[str, Any] = {
    "family": "digits",
    "version": "1",
    "model": "model.tflite",
    "inputs": [{"name": "image", "datatype": "INT8", "shape": [1, 4]}],
    "outputs": [{"name": "probs", "datatype": "INT8", "shape": [1, 2]}],
    "files": [
        {"name": name, "length": 1, "digest": "a" * 64, "chunks": ["a" * 64]}
        for name in ("model.tflite", "golden.msgpack", "labels.txt")
    ],
    "golden": {"rows": 1, "runtime": "x"},
    "classification": {"scores": "probs"},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*DOCUMENT, "name", "length"]), inner, max_size=6)
    ),
    max_leaves=20,
)


def test_the_example_is_a_manifest() -> None:
    """What the other tests change is good before they change it."""
    assert manifest.parse(msgspec.json.encode(DOCUMENT)).family == "digits"


@pytest.mark.parametrize(
    "change",
    [
        {"family": "../etc"},
        {"family": "digits\n"},
        {"version": "a/b"},
        {"version": ""},
        {"model": "../model"},
        {"model": "other.tflite"},
        {"files": []},
        {"files": DOCUMENT["files"] * 2},
        {"files": DOCUMENT["files"] * 10},
        {"inputs": []},
        {"inputs": [{"name": "image", "datatype": "INT8", "shape": [0, 4]}]},
        {"inputs": [{"name": "image", "datatype": "INT8", "shape": [True, 4]}]},
        {"inputs": [{"name": "image", "datatype": "STRING", "shape": [1]}]},
        {"golden": {"rows": 0, "runtime": "x"}},
        {"classification": {"scores": "nothing"}},
        {"baseline": "missing.msgpack"},
    ],
)
def test_a_wrong_manifest_is_refused(change: dict[str, Any]) -> None:
    """Names, counts, shapes and references are checked while parsing."""
    with pytest.raises(ManifestInvalid):
        manifest.parse(msgspec.json.encode(DOCUMENT | change))


@pytest.mark.parametrize("length", [0, -1, 2**63, 61_441, limits.FILE_BYTES_MAX + 1])
def test_a_files_length_must_fit_its_chunks(length: int) -> None:
    """One chunk holds 1 to 61,440 bytes; a length that says otherwise is a lie."""
    files = [DOCUMENT["files"][0] | {"length": length}, *DOCUMENT["files"][1:]]
    with pytest.raises(ManifestInvalid):
        manifest.parse(msgspec.json.encode(DOCUMENT | {"files": files}))


def test_a_newer_major_schema_is_refused() -> None:
    """A manifest of another generation of this project is not guessed at."""
    with pytest.raises(VersionUnsupported):
        manifest.parse(msgspec.json.encode(DOCUMENT | {"schema": "2.0"}))


@given(st.binary(max_size=200) | st.just(b"[" * 60_000) | st.just(b"x" * 70_000))
def test_any_bytes_are_refused_as_manifest_and_golden_vectors(data: bytes) -> None:
    """Only errors of the tree come out."""
    with pytest.raises(ShoalError):
        manifest.parse(data)
    with pytest.raises(ShoalError):
        golden.parse(data)


@given(st.dictionaries(st.sampled_from(sorted(DOCUMENT)), JSON, max_size=3))
def test_a_manifest_with_strange_parts_is_read_or_refused(change: dict[str, Any]) -> None:
    """Structure is checked to the bottom."""
    data = msgspec.json.encode(DOCUMENT | change)
    with contextlib.suppress(ShoalError):
        parsed = manifest.parse(data)
        assert manifest.parse(manifest.encode(parsed)) == parsed


@given(
    st.lists(st.integers(-2, 2**40), max_size=10),
    st.binary(max_size=64),
    st.lists(st.integers(), max_size=3),
)
def test_golden_vectors_with_strange_shapes_are_read_or_refused(
    shape: list[int], data: bytes, labels: list[int]
) -> None:
    """A shape that its bytes do not fill never becomes an array."""
    array = {"shape": shape, "data": data}
    document = {"inputs": {"image": array}, "outputs": {"probs": array}, "labels": labels}
    with contextlib.suppress(ShoalError, OverflowError):
        vectors = golden.parse(msgspec.msgpack.encode(document))
        assert len(vectors.inputs["image"].data) == len(data)


@given(st.binary(max_size=3 * limits.CHUNK_BYTES_MAX))
def test_a_file_survives_cutting_and_joining(data: bytes) -> None:
    """Chunks in order are the file, each under its own digest."""
    pieces = list(chunks.cut(data))
    assert all(0 < len(piece.data) <= limits.CHUNK_BYTES_MAX for piece in pieces)
    for piece in pieces:
        chunks.verify(piece.digest, piece.data)
    assert chunks.join(chunks.digest_of(data), (piece.data for piece in pieces)) == data


@given(st.binary(min_size=1, max_size=300), st.integers(0, 299), st.integers(1, 255))
def test_a_changed_chunk_is_noticed(data: bytes, place: int, flip: int) -> None:
    """One flipped byte is another chunk."""
    damaged = bytearray(data)
    damaged[place % len(data)] ^= flip
    with pytest.raises(ChunkCorrupt):
        chunks.verify(chunks.digest_of(data), bytes(damaged))
    with pytest.raises(DigestMismatch):
        chunks.join(chunks.digest_of(data), [bytes(damaged)])
