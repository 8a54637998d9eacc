"""What a bundle is: one manifest that names all files, so that one signature covers them together.

A bundle on disk is a folder with `manifest.json` and the files it lists, nothing else. How a
manifest is made stands in `build`, how its bytes travel in `chunks`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from firmware_bundles import limits
from firmware_bundles.errors import BundleTooLarge, ManifestInvalid, VersionUnsupported
from firmware_bundles.identifiers import AcceleratorName, Digest, Family, FileName, ModelVersion
from firmware_bundles.wire.messages import Text

SCHEMA = "1.0"
MANIFEST_NAME = "manifest.json"

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64",
]  # fmt: skip
Extent = Annotated[int, Meta(ge=1, lt=2**31)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    pass


class FileEntry(_Part, frozen=True, kw_only=True):
    """A file of the bundle and the chunks that make it up, in order."""

    name: FileName
    length: Annotated[int, Meta(ge=1, le=limits.FILE_BYTES_MAX)]
    digest: Digest
    chunks: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=limits.CHUNKS_PER_FILE_MAX)]


class Tensor(_Part, frozen=True, kw_only=True):
    """An input or output as clients see it: the model's own type, and how it maps to real values.

    real = scale * (stored - zero_point); scale 0 means that it is not quantized.
    """

    name: Text
    datatype: Datatype
    shape: Annotated[tuple[Extent, ...], Meta(max_length=limits.TENSOR_RANK_MAX)]
    scale: Annotated[float, Meta(ge=0)] = 0.0
    zero_point: int = 0


class Classification(_Part, frozen=True, kw_only=True):
    """Post-processing: the largest score of the output `scores` names the class, in `labels`.

    Where the model gives logits, `activation` makes scores of them. Below `threshold` there is no
    class; `top_k` classes are named, the best first. What is not said does not stand in the
    manifest, whose bytes are signed.
    """

    scores: Text
    labels: FileName = "labels.txt"
    activation: Literal["softmax", "sigmoid"] | UnsetType = UNSET
    threshold: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=1, le=limits.TOP_K_MAX)] | UnsetType = UNSET

    @property
    def has_score(self) -> bool:
        """Whether devices offer `class_score`: where more than the largest score was asked for."""
        return any(each is not UNSET for each in (self.activation, self.threshold, self.top_k))


class Golden(_Part, frozen=True, kw_only=True):
    """Inputs with the answers of the owner's runtime, and how far another may be off.

    `tolerance_lsb` counts quantization steps of the output, `tolerance_absolute` real units where
    it has none.
    """

    file: FileName = "golden.msgpack"
    rows: Annotated[int, Meta(ge=1, le=4096)]
    runtime: Text
    tolerance_lsb: Annotated[float, Meta(ge=0, le=255)] = 2.0
    tolerance_absolute: Annotated[float, Meta(ge=0)] = 1e-5


class Needs(_Part, frozen=True, kw_only=True):
    """What a device must offer.

    `accelerator` is the name that a device's owner gives one in `inference.toml`, `speed_class_min`
    the least speed class (`agent.inference.calibration`); both are known before a byte moves.
    `latency_ms_max` is measured with the model itself, in its self-test.
    """

    operations: dict[Text, int] = msgspec.field(default_factory=dict)
    memory_bytes: Annotated[int, Meta(ge=0)] = 0
    latency_ms_max: Annotated[float, Meta(ge=0)] = 0.0
    accelerator: AcceleratorName | UnsetType = UNSET
    speed_class_min: Annotated[int, Meta(ge=0, le=limits.SPEED_CLASS_MAX)] | UnsetType = UNSET


class Manifest(_Part, frozen=True, kw_only=True):
    """The signed description of one bundle."""

    schema: str = SCHEMA
    family: Family
    version: ModelVersion
    model: FileName
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=limits.TENSORS_MAX)]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=limits.TENSORS_MAX)]
    files: Annotated[
        tuple[FileEntry, ...], Meta(min_length=1, max_length=limits.FILES_PER_BUNDLE_MAX)
    ]
    golden: Golden
    baseline: FileName | None = None
    classification: Classification | None = None
    needs: Needs = Needs()
    lineage: Annotated[dict[Text, Text], Meta(max_length=64)] = msgspec.field(default_factory=dict)

    def file(self, name: str) -> FileEntry:
        """Return the entry of a file; `parse` made sure that what is referred to is listed."""
        return next(entry for entry in self.files if entry.name == name)

    def chunk_bytes(self) -> dict[str, int]:
        """Return the size of each chunk of all files, by its digest."""
        sizes: dict[str, int] = {}
        for entry in self.files:
            *full, last = entry.chunks
            sizes |= dict.fromkeys(full, limits.CHUNK_BYTES_MAX)
            sizes[last] = entry.length - len(full) * limits.CHUNK_BYTES_MAX
        return sizes

    def chunks(self) -> tuple[str, ...]:
        """Return the digests of all chunks of all files, each once, in order."""
        return tuple(dict.fromkeys(digest for entry in self.files for digest in entry.chunks))


def encode(manifest: Manifest) -> bytes:
    """Return the bytes that are signed: the same manifest always gives the same bytes.

    Raises BundleTooLarge.
    """
    data = msgspec.json.encode(manifest, order="deterministic")
    if len(data) > limits.MANIFEST_BYTES_MAX:
        raise BundleTooLarge(
            f"the manifest has {len(data)} bytes; "
            f"at most {limits.MANIFEST_BYTES_MAX} fit one message",
            hint="Use a smaller model or fewer files.",
        )
    return data


def parse(data: bytes) -> Manifest:
    """Parse and check a manifest. Raises ManifestInvalid (with the place) or VersionUnsupported."""
    if len(data) > limits.MANIFEST_BYTES_MAX:
        raise ManifestInvalid(f"the manifest has {len(data)} bytes, too many")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestInvalid(f"the manifest cannot be read: {error}") from error
    if manifest.schema.split(".", 1)[0] != SCHEMA.split(".", 1)[0]:
        raise VersionUnsupported(f"the manifest has schema {manifest.schema!r:.20}, not {SCHEMA}")
    _check_files(manifest)
    return manifest


def _check_files(manifest: Manifest) -> None:
    names = [entry.name for entry in manifest.files]
    if len(set(names)) != len(names) or MANIFEST_NAME in names:
        raise ManifestInvalid(f"the manifest lists a file twice, or itself: {sorted(names)}")
    for entry in manifest.files:
        expected = -(-entry.length // limits.CHUNK_BYTES_MAX)
        if len(entry.chunks) != expected:
            raise ManifestInvalid(
                f"file {entry.name} of {entry.length} bytes lists {len(entry.chunks)} chunks, "
                f"but needs {expected}"
            )
    wanted = {manifest.model, manifest.golden.file}
    wanted |= {manifest.baseline} if manifest.baseline else set()
    wanted |= {manifest.classification.labels} if manifest.classification else set()
    if missing := sorted(wanted - set(names)):
        raise ManifestInvalid(f"the manifest refers to files that it does not list: {missing}")
    outputs = {tensor.name for tensor in manifest.outputs}
    if manifest.classification and manifest.classification.scores not in outputs:
        raise ManifestInvalid(
            f"classification.scores names the output {manifest.classification.scores!r}; "
            f"the outputs are {sorted(outputs)}"
        )
