"""The table of parsers: bundles, models, chunks, and what owners hand over."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from typing import Final

import msgspec
import numpy as np

from control_plane.cli import baseline
from firmware_bundles import (
    arrays,
    build,
    chunks,
    conversion,
    golden,
    limits,
    manifest,
    model_facts,
    operations,
    patches,
    tables,
)
from firmware_bundles.identifiers import Digest, parse
from support.bundles import SAMPLES, Sample
from support.hostile.inputs import Form
from support.hostile.parser import Parser, from_file, text_of


def _sample_manifest() -> bytes:
    return manifest.encode(Sample().manifest())


def _model() -> bytes:
    return (SAMPLES / "v1" / "model.tflite").read_bytes()


def _npy() -> bytes:
    with io.BytesIO() as file:
        np.save(file, np.arange(6.0).reshape(3, 2))
        return file.getvalue()


def _answers() -> bytes:
    outputs = {"y": golden.RealArray(shape=(2, 2), data=bytes(16))}
    return msgspec.msgpack.encode(conversion.Answered(runtime="r", outputs=outputs))


def _golden() -> bytes:
    vector = golden.RealArray(shape=(2, 2), data=bytes(16))
    return golden.encode(
        golden.GoldenVectors(inputs={"x": vector}, outputs={"y": vector}, labels=(0, 1))
    )


def _arrays() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.zeros((4, 2), dtype=np.float32), label=np.zeros(4, dtype=int))
    return stream.getvalue()


def _zipped(data: bytes) -> bytes:
    """One array as a .npz file has it, in an archive whose checksums are right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", data)
    return stream.getvalue()


def _array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((4, 2), dtype=np.float32))
    return stream.getvalue()


def _load_zipped(data: bytes) -> object:
    return from_file(arrays.load)(_zipped(data))


def _chunk(data: bytes) -> bytes:
    """A topic's digest and the bytes that came on it."""
    digest, body = parse(Digest, text_of(data[:64]), "digest"), data[64:]
    chunks.verify(digest, body)
    return chunks.join(digest, [body])


def _chunk_seeds() -> list[bytes]:
    bodies = (b"abc", b"\0", bytes(limits.CHUNK_BYTES_MAX))
    return [chunks.digest_of(body).encode() + body for body in bodies]


def _joined(data: bytes) -> bytes:
    """A file's digest, then the lengths of its chunks, then their bytes."""
    entry = msgspec.msgpack.encode(chunks.digest_of(b"abc" * 9))
    pieces = [data[start : start + 3] for start in range(0, len(data), 3)]
    return chunks.join(msgspec.msgpack.decode(entry, type=str), pieces)


_INDEXED_BYTES: Final = 2 * limits.CHUNK_BYTES_MAX + 1
_SOURCE: Final = bytes(range(256)) * 40
_TARGET: Final = bytes((each + 1) % 256 for each in _SOURCE) + b"more"


@cache
def _patch() -> bytes:
    return patches.create(_SOURCE, _TARGET)


def _header_end() -> int:
    return 2 + int.from_bytes(_patch()[:2], "big")


def _patched(data: bytes) -> list[bytes]:
    digest = chunks.digest_of(_TARGET)
    made = patches.apply(io.BytesIO(data), io.BytesIO(_SOURCE), digest=digest, length=len(_TARGET))
    return list(made)


def _patched_by(header: bytes) -> list[bytes]:
    """A header of any content, with its own length before it and a good difference behind."""
    return _patched(len(header).to_bytes(4, "big")[-2:] + header + _patch()[_header_end() :])


_BASELINE_SETTINGS: Final = b"""\
labels: ['no', 'yes']
scores: [p_no, p_yes]
truth: y
values: {revenue: 500}
segments: [night]
cycle_s: 86400
bins: 5
largest: {age: 120}
"""

PARSERS: Final = (
    Parser(
        name="data as CSV",
        parse=from_file(tables._csv),
        make_seeds=lambda: [b"age,income\n1,2.5\n,yes\n"],
        cost=4,
    ),
    Parser(name="data as .npy", parse=from_file(tables._npy), make_seeds=lambda: [_npy()], cost=4),
    Parser(
        name="settings of a baseline",
        parse=lambda data: baseline.parse(baseline.read_settings(data)),
        make_seeds=lambda: [_BASELINE_SETTINGS],
        cost=4,
    ),
    Parser(name="patch", parse=_patched, make_seeds=lambda: [_patch()]),
    Parser(
        name="header of a patch",
        parse=_patched_by,
        make_seeds=lambda: [_patch()[2 : _header_end()]],
        form=Form.MSGPACK,
    ),
    Parser(
        name="manifest",
        parse=manifest.parse,
        encode=manifest.encode,
        make_seeds=lambda: [_sample_manifest()],
        form=Form.JSON,
    ),
    Parser(
        name="golden vectors",
        parse=golden.parse,
        encode=golden.encode,
        make_seeds=lambda: [_golden(), Sample().files["golden.msgpack"]],
        form=Form.MSGPACK,
    ),
    Parser(
        name="answers of a trial",
        parse=conversion.parse,
        encode=msgspec.msgpack.encode,
        make_seeds=lambda: [_answers()],
        form=Form.MSGPACK,
    ),
    Parser(
        name="operations of an inventory",
        parse=lambda data: operations.parse(text_of(data)),
        make_seeds=lambda: [text.encode() for text in operations.RUNTIMES.values()],
    ),
    Parser(name="model", parse=model_facts.read, make_seeds=lambda: [_model()]),
    Parser(
        name="index of chunks",
        parse=lambda data: chunks.parse_index(data, _INDEXED_BYTES),
        encode=msgspec.json.encode,
        make_seeds=lambda: [chunks.pack(bytes(_INDEXED_BYTES)).chunks[-1].data],
        form=Form.JSON,
    ),
    Parser(name="chunk", parse=_chunk, make_seeds=_chunk_seeds),
    Parser(name="joined chunks", parse=_joined, make_seeds=lambda: [b"abc" * 9]),
    Parser(
        name="arrays of an owner",
        parse=from_file(arrays.load),
        make_seeds=lambda: [_arrays()],
    ),
    Parser(
        name="array of an owner, zipped",
        parse=_load_zipped,
        make_seeds=lambda: [_array()],
    ),
    Parser(
        name="labels of a bundle",
        parse=lambda data: build.parse_labels(data, "labels.txt"),
        make_seeds=lambda: [b"zero\none\ntwo\n"],
    ),
)
