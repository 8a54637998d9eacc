"""From a model and what its owner knows about it to a bundle folder, and back.

`build` writes the folder whole or not at all; `read_bundle` trusts the folder's bytes no further
than the manifest goes; `verify_bundle` checks all that can be checked without running the model.
"""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from firmware_bundles import (
    arrays,
    chunks,
    conversion,
    durable,
    golden,
    limits,
    manifest,
    model_facts,
)
from firmware_bundles.errors import BundleError, BundleTooLarge, InputError, ManifestInvalid
from firmware_bundles.identifiers import AcceleratorName, Family, ModelVersion, parse
from firmware_bundles.manifest import Classification, FileEntry, Golden, Manifest, Needs
from firmware_bundles.sketches import codec as sketch_codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from firmware_bundles.conversion import Run
    from firmware_bundles.golden import GoldenVectors
    from firmware_bundles.manifest import Tensor
    from firmware_bundles.model_facts import ModelFacts

MODEL_FILE: Final = "model.tflite"
LABELS_FILE: Final = "labels.txt"
GOLDEN_FILE: Final = "golden.msgpack"
BASELINE_FILE: Final = "baseline.msgpack"
RUNTIME_DEFAULT: Final = "ai-edge-litert"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an owner says about a model; the files are read, nothing is run.

    `golden` and `heldout` are .npz files with an array of real values for each input and output
    tensor, by name, rows first, and the true classes in `label`. `scores` names the output whose
    largest value is the class; it is needed only where the model has several. `activation`,
    `threshold` and `top_k` are as in the manifest's Classification; None says nothing. `baseline`
    is a baseline that was made before, instead of one from `heldout`.
    `float_model` is the trained model before quantization; `runtimes` are those of the fleet, as in
    `operations.RUNTIMES`.
    """

    family: str
    version: str
    model: Path
    golden: Path
    labels: Path | None = None
    heldout: Path | None = None
    baseline: Path | None = None
    scores: str | None = None
    activation: str | None = None
    threshold: float | None = None
    top_k: int | None = None
    runtime: str = RUNTIME_DEFAULT
    lineage: Mapping[str, str] = field(default_factory=dict)
    float_model: Path | None = None
    accuracy_drop_max: float = conversion.ACCURACY_DROP_MAX
    runtimes: tuple[str, ...] = ()
    accelerator: str | None = None
    speed_class_min: int | None = None


class Bundle(NamedTuple):
    """A bundle folder with its parsed manifest and the bytes that are signed."""

    directory: Path
    manifest: Manifest
    manifest_bytes: bytes

    @property
    def digest(self) -> str:
        """The manifest's digest: the name of this model everywhere."""
        return chunks.digest_of(self.manifest_bytes)

    def file_bytes(self, name: str) -> bytes:
        """Return a listed file's content. Raises OSError, BundleError."""
        return _read(self.directory / name)


def build(settings: Settings, out: Path, run: Run | None = None) -> Bundle:
    """Write a bundle to `out`, which must not exist yet.

    Where `run` is given, the model has to give its golden answers, and keep the accuracy of the
    float model. Raises InputError, BundleError and its children, SelfTestFailed, OSError; `out` is
    whole or not there.
    """
    parse(Family, settings.family, "model family")
    parse(ModelVersion, settings.version, "model version")
    if settings.accelerator is not None:
        parse(AcceleratorName, settings.accelerator, "name of an accelerator")
    if out.exists():
        raise InputError(f"{out} exists already", hint="Name another folder, or remove this one.")
    model = _read(settings.model)
    facts = model_facts.read(model)
    conversion.check_facts(facts, settings.runtimes)
    labels = _labels(settings.labels)
    classification = _classification(settings, facts, labels)
    vectors = _golden(settings.golden, facts)
    promise = Golden(file=GOLDEN_FILE, rows=vectors.rows, runtime=settings.runtime)
    memory_bytes = 0
    if run is not None:
        answered = run(settings.model, vectors)
        memory_bytes = conversion.memory_needed(answered)
        conversion.check_golden(vectors, answered, facts.outputs, promise)
        _check_accuracy(settings, facts, classification, run)
    files = {MODEL_FILE: model, GOLDEN_FILE: golden.encode(vectors)}
    if settings.labels is not None:
        files[LABELS_FILE] = _read(settings.labels)
    if settings.baseline is not None:
        files[BASELINE_FILE] = _ready_baseline(settings, facts, labels)
    elif settings.heldout is not None:
        files[BASELINE_FILE] = _baseline(settings.heldout, facts, classification, labels)
    document = Manifest(
        family=settings.family,
        version=settings.version,
        model=MODEL_FILE,
        inputs=facts.inputs,
        outputs=facts.outputs,
        files=tuple(_entry(name, data) for name, data in sorted(files.items())),
        golden=promise,
        baseline=BASELINE_FILE if BASELINE_FILE in files else None,
        classification=classification,
        needs=_needs(settings, facts, memory_bytes),
        lineage=dict(settings.lineage),
    )
    data = manifest.encode(document)
    manifest.parse(data)
    _write_folder(out, {**files, manifest.MANIFEST_NAME: data})
    return Bundle(out, document, data)


def read_bundle(directory: Path) -> Bundle:
    """Return a bundle whose manifest is well formed; its files are not looked at.

    Raises ManifestInvalid, VersionUnsupported, OSError.
    """
    data = _read(directory / manifest.MANIFEST_NAME, limits.MANIFEST_BYTES_MAX)
    try:
        return Bundle(directory, manifest.parse(data), data)
    except ManifestInvalid as error:
        raise ManifestInvalid(f"{directory / manifest.MANIFEST_NAME}: {error.message}") from error


def verify_bundle(directory: Path) -> Bundle:
    """Return a bundle whose files are what the manifest says, and fit each other.

    Raises BundleError and its children, VersionUnsupported, Malformed, OSError.
    """
    bundle = read_bundle(directory)
    document = bundle.manifest
    listed = {entry.name for entry in document.files} | {manifest.MANIFEST_NAME}
    if extra := sorted(path.name for path in directory.iterdir() if path.name not in listed):
        raise BundleError(f"{directory} holds {extra[0]!r:.80}, which its manifest does not list")
    files = {entry.name: _checked(directory / entry.name, entry) for entry in document.files}
    _check_model(document, model_facts.read(files[document.model]))
    _check_golden(document, golden.parse(files[document.golden.file]))
    labels = _bundle_labels(document, files)
    if document.baseline:
        baseline = sketch_codec.parse_baseline(files[document.baseline])
        if baseline.labels != labels:
            raise BundleError(f"the baseline knows the classes {baseline.labels}, not {labels}")
    return bundle


def _classification(
    settings: Settings, facts: ModelFacts, labels: tuple[str, ...]
) -> Classification | None:
    said = {
        key: value
        for key in ("activation", "threshold", "top_k")
        if (value := getattr(settings, key)) is not None
    }
    if not labels:
        if said:
            raise InputError(f"{', '.join(said)} without labels", hint="Say them with --labels.")
        return None
    names = [tensor.name for tensor in facts.outputs]
    scores = settings.scores or (names[0] if len(names) == 1 else "")
    if scores not in names:
        raise InputError(
            f"which output holds the scores? The model has {names}", hint="Say it with --scores."
        )
    classes = _classes(facts.outputs, scores)
    if classes != len(labels):
        raise InputError(
            f"{settings.labels} names {len(labels)} classes; output {scores!r} has {classes}"
        )
    if (settings.top_k or 1) > len(labels):
        raise InputError(f"top_k is {settings.top_k}; there are {len(labels)} classes")
    fact = {"scores": scores, "labels": LABELS_FILE, **said}
    try:
        return msgspec.convert(fact, Classification)
    except msgspec.ValidationError as error:
        raise InputError(f"the post-processing is wrong: {error}") from error


def _classes(outputs: tuple[Tensor, ...], scores: str) -> int:
    tensor = next(tensor for tensor in outputs if tensor.name == scores)
    count = 1
    for extent in tensor.shape[1:]:
        count *= extent
    return count


def _labels(path: Path | None) -> tuple[str, ...]:
    return () if path is None else parse_labels(_read(path), str(path))


def parse_labels(data: bytes, what: str) -> tuple[str, ...]:
    """Return the names of the classes, one a line; `what` names the file. Raises InputError."""
    try:
        labels = tuple(line.strip() for line in data.decode().splitlines())
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is no UTF-8 text") from error
    if not labels or "" in labels or len(set(labels)) != len(labels):
        raise InputError(f"{what} must hold one different label on each line")
    return labels


def _bundle_labels(document: Manifest, files: Mapping[str, bytes]) -> tuple[str, ...]:
    classification = document.classification
    if classification is None:
        return ()
    labels = parse_labels(files[classification.labels], classification.labels)
    classes = _classes(document.outputs, classification.scores)
    if len(labels) != classes:
        raise BundleError(f"{classification.labels} names {len(labels)} classes, not {classes}")
    return labels


def _check_accuracy(
    settings: Settings, facts: ModelFacts, classification: Classification | None, run: Run
) -> None:
    if settings.float_model is None:
        return
    path = settings.heldout or settings.golden
    rows = _golden(path, facts)
    if classification is None or not rows.labels:
        raise InputError(
            f"the accuracy of {settings.float_model} cannot be compared",
            hint=f"Give --labels, and the true classes as the array 'label' of {path}.",
        )
    converted, trained = run(settings.model, rows), run(settings.float_model, rows)
    limit = settings.accuracy_drop_max
    conversion.check_accuracy(converted, trained, rows.labels, classification.scores, limit)


def _golden(path: Path, facts: ModelFacts) -> GoldenVectors:
    found = arrays.load(path)
    inputs = arrays.reals_of(found, facts.inputs, path)
    outputs = arrays.reals_of(found, facts.outputs, path)
    rows = len(next(iter(inputs.values())))
    if {len(values) for values in outputs.values()} != {rows}:
        raise InputError(f"inputs and outputs of {path} differ in their number of rows")
    return golden.GoldenVectors(
        inputs={name: arrays.as_golden(values) for name, values in inputs.items()},
        outputs={name: arrays.as_golden(values) for name, values in outputs.items()},
        labels=arrays.labels_of(found, rows, path),
    )


def _baseline(
    path: Path,
    facts: ModelFacts,
    classification: Classification | None,
    labels: tuple[str, ...],
) -> bytes:
    from firmware_bundles import postprocessing
    from firmware_bundles.sketches import baseline

    found = arrays.load(path)
    inputs = arrays.reals_of(found, facts.inputs, path)
    outputs = arrays.reals_of(found, facts.outputs, path)
    rows = len(next(iter(inputs.values())))
    name = classification.scores if classification else facts.outputs[0].name
    scores = outputs[name].reshape(len(outputs[name]), -1)[:, : len(labels)]
    if classification and classification.activation:
        scores = postprocessing.activate(scores, classification.activation)
    if len(scores) != rows:
        raise InputError(f"inputs and outputs of {path} differ in their number of rows")
    true = arrays.labels_of(found, rows, path)
    truth = np.array(true, dtype=np.int64) if true and labels else None
    return sketch_codec.encode_baseline(baseline.make(inputs, scores, labels, truth=truth))


def _ready_baseline(settings: Settings, facts: ModelFacts, labels: tuple[str, ...]) -> bytes:
    """Return a baseline file that fits the model. Raises InputError, BundleError, WireError."""
    assert settings.baseline is not None, "the caller asks where there is one"
    if settings.heldout is not None:
        raise InputError(
            "a baseline and held-out data are too much", hint="Give --baseline or --heldout."
        )
    data = _read(settings.baseline)
    made = sketch_codec.parse_baseline(data)
    takes = sum(int(np.prod(tensor.shape[1:])) for tensor in facts.inputs)
    if made.features != takes or made.labels != labels:
        raise BundleError(
            f"the baseline is of {made.features} features and {len(made.labels)} classes; "
            f"the model takes {takes}, and names {len(labels)}"
        )
    return data


def _needs(settings: Settings, facts: ModelFacts, memory_bytes: int) -> Needs:
    least = settings.speed_class_min
    return Needs(
        operations=facts.operations,
        memory_bytes=memory_bytes,
        accelerator=UNSET if settings.accelerator is None else settings.accelerator,
        speed_class_min=UNSET if least is None else least,
    )


def _entry(name: str, data: bytes) -> FileEntry:
    if not 0 < len(data) <= limits.FILE_BYTES_MAX:
        raise BundleTooLarge(
            f"file {name} has {len(data)} bytes; 1 to {limits.FILE_BYTES_MAX} are allowed"
        )
    if len(data) <= limits.CHUNK_BYTES_MAX:
        digest = chunks.digest_of(data)
        return FileEntry(name=name, length=len(data), digest=digest, chunks=(digest,))
    with ThreadPoolExecutor(1) as beside:  # hashing lets go of the interpreter: two at once
        whole = beside.submit(chunks.digest_of, data)
        pieces = chunks.digests_of(data)
    return FileEntry(name=name, length=len(data), digest=whole.result(), chunks=pieces)


def _checked(path: Path, entry: FileEntry) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path} is listed in the manifest, but is no file")
    data = _read(path)
    if _entry(entry.name, data) != entry:
        raise BundleError(f"{path} is not the file that the manifest describes")
    return data


def _check_model(document: Manifest, facts: ModelFacts) -> None:
    if (document.inputs, document.outputs) != (facts.inputs, facts.outputs):
        raise BundleError("the manifest's inputs and outputs are not those of the model")
    if document.needs.operations != facts.operations:
        raise BundleError("the manifest's needs are not the operations of the model")


def _check_golden(document: Manifest, vectors: GoldenVectors) -> None:
    for found, tensors in ((vectors.inputs, document.inputs), (vectors.outputs, document.outputs)):
        wanted = {tensor.name: tensor.shape[1:] for tensor in tensors}
        if {name: array.shape[1:] for name, array in found.items()} != wanted:
            raise BundleError("the golden vectors do not fit the model's inputs and outputs")
    if vectors.rows != document.golden.rows:
        raise BundleError(
            f"the manifest promises {document.golden.rows} golden vectors; there are {vectors.rows}"
        )


def _read(path: Path, bytes_max: int = limits.FILE_BYTES_MAX) -> bytes:
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        data = file.read(min(size, bytes_max) + 1)
    if len(data) > bytes_max:
        raise BundleTooLarge(f"{path} is larger than {bytes_max} bytes")
    return data


def _write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        for name, data in files.items():
            durable.write_new(temporary / name, data)
        durable.sync_directory(temporary)
        temporary.chmod(0o755)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    durable.sync_directory(out.parent)
