"""A model as it serves: loaded from a slot, warmed, proved by its golden vectors, and run.

Which of them serves a family is `registry`'s affair.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.deployment import slots
from agent.deployment.slots import Slot
from agent.inference.backends import Backend, LiteRtBackend
from agent.inference.cpu_backed import CpuBacked
from agent.inference.guarded import Guard
from agent.inference.pool import Pool
from agent.inference.quantization import REAL, STRINGS, Port, Reals, Stored
from agent.inference.tensors import CLASS_OUTPUT, SCORE_OUTPUT
from firmware_bundles import golden
from firmware_bundles.errors import BundleError, SelfTestFailed, SlotBroken, WireError
from firmware_bundles.manifest import Manifest
from firmware_bundles.sketches import codec as sketch_codec
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.wire.columns import CLASS_MAX

_LABELS_BYTES_MAX: Final = 1024 * 1024
QUICK_US_MAX: Final = 2000.0  # longer inferences leave the loop's thread free
_RELATIVE: Final = 1e-5  # what float kernels of different runtimes may differ by


class Bundle(NamedTuple):
    """The parts of a verified slot that serving needs; `baseline_file` is empty without one."""

    slot: Slot
    digest: str
    manifest: Manifest
    labels: tuple[str, ...]
    baseline: Baseline | None
    baseline_file: bytes


class Agreement(NamedTuple):
    """How far the golden vectors were missed, in steps and in real units, and the pace.

    `answers` are the real outputs of all rows.
    """

    rows: int
    difference_lsb_max: float
    difference_absolute_max: float
    latency_us: NDArray[np.float64]
    answers: list[Reals]


def open_bundle(slot: Slot) -> Bundle:
    """Read and check a slot. Raises SlotBroken."""
    manifest = slots.read(slot)
    labels: tuple[str, ...] = ()
    baseline, file = None, b""
    try:
        if manifest.classification:
            text = (slot.directory / manifest.classification.labels).read_bytes()
            labels = tuple(text[:_LABELS_BYTES_MAX].decode().splitlines())
        if manifest.baseline:
            file = (slot.directory / manifest.baseline).read_bytes()
            baseline = sketch_codec.parse_baseline(file)
    except (OSError, UnicodeDecodeError, WireError) as error:
        raise SlotBroken(f"slot {slot.family}/{slot.name}: {error}") from error
    bundle = Bundle(slot, slots.manifest_digest(slot), manifest, labels, baseline, file)
    _check_fit(bundle)
    return bundle


def _check_fit(bundle: Bundle) -> None:
    manifest = bundle.manifest
    if len(bundle.labels) > CLASS_MAX:
        raise SlotBroken(f"the bundle names {len(bundle.labels)} classes; at most {CLASS_MAX}")
    if (fact := manifest.classification) is not None:
        shape = next(each for each in manifest.outputs if each.name == fact.scores).shape
        if (fact.top_k or 1) > len(bundle.labels):
            raise SlotBroken(f"top_k is {fact.top_k}, but there are {len(bundle.labels)} classes")
        if int(np.prod(shape)) != len(bundle.labels):
            raise SlotBroken(
                f"the output {fact.scores!r} has shape {tuple(shape)}, "
                f"but {fact.labels} names {len(bundle.labels)} classes"
            )
    if (baseline := bundle.baseline) is not None:
        features = sum(int(np.prod(each.shape)) for each in manifest.inputs)
        if baseline.features != features or baseline.labels != bundle.labels:
            raise SlotBroken("the baseline was made for other inputs or labels")


class ServedModel:
    """A loaded model with its counters. `since` is Unix seconds.

    `delegate_reason` says why the backend's delegate is the one, or why there is none.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.version = bundle.manifest.version
        names = [tensor.name for tensor in bundle.manifest.outputs]
        fact = bundle.manifest.classification
        self.scores_place = None if fact is None else names.index(fact.scores)
        made = [] if fact is None else [CLASS_OUTPUT, SCORE_OUTPUT][: 1 + fact.has_score]
        self.made_outputs = [each for each in made if each not in names]
        self.top_k = (fact.top_k or 1) if fact is not None else 0
        self.threshold = (fact.threshold or None) if fact is not None else None
        self.backend = backend
        self.delegate_reason = ""
        self.inputs = [Port(tensor) for tensor in bundle.manifest.inputs]
        self.outputs = [Port(tensor) for tensor in bundle.manifest.outputs]
        self.offered = {port.name: port.datatypes for port in self.outputs} | {
            name: [STRINGS if name == CLASS_OUTPUT else REAL] for name in self.made_outputs
        }
        self.since = time.time()
        self.answered = 0
        self.errors = 0
        self.refusals = 0
        self.latency_us_sum = 0
        self.is_quick = True
        self._sample: tuple[list[Stored], list[Reals]] = ([], [])

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Return the stored outputs for stored inputs, both in the manifest's order."""
        return self.backend.run(inputs)

    def prove(self, other: Agreement | None = None) -> Agreement:
        """Run the golden vectors (which also warms the model), held against `other`'s answers.

        Without `other`: against those in the bundle. Raises SelfTestFailed when an output is
        further off than the manifest allows.
        """
        agreement, self._sample = _run_golden(self, other)
        # The least: the first run is cold, and a busy machine is no slow model.
        self.is_quick = float(agreement.latency_us.min()) <= QUICK_US_MAX
        return agreement

    def check(self) -> None:
        """Answer the first golden vector once more. Raises SelfTestFailed, ModelUnusable.

        An accelerator is held to the CPU's answers, by `acceleration`: here the CPU answers.
        """
        backend = self.backend.cpu if isinstance(self.backend, CpuBacked) else self.backend
        stored, wanted = self._sample
        for output, values, port in zip(backend.run(stored), wanted, self.outputs, strict=True):
            _check(_difference(port.real(output), values, port), 0, port, self.manifest)


def load(
    slot: Slot, guard: Guard | None = None, *, interpreters: int = 1, threads: int = 1
) -> ServedModel:
    """Return the model of a slot, verified, loaded and proved; guarded where it is to serve.

    A model that is not quick gets as many `interpreters`, of so many `threads` each.
    Raises SlotBroken, ModelUnusable, RuntimeUnsupported, SelfTestFailed.
    """
    bundle = open_bundle(slot)
    path = slot.directory / bundle.manifest.model

    def interpreter() -> Backend:
        backend = LiteRtBackend(path, bundle.manifest, threads=threads)
        return backend if guard is None else guard.wrap(backend, slot.family, bundle.digest)

    backend = interpreter()
    model = ServedModel(bundle, backend)
    model.prove()
    if not model.is_quick and interpreters > 1:
        model.backend = Pool([backend, *(interpreter() for _ in range(interpreters - 1))])
    return model


def _run_golden(
    model: ServedModel, other: Agreement | None
) -> tuple[Agreement, tuple[list[Stored], list[Reals]]]:
    manifest, directory = model.manifest, model.bundle.slot.directory
    try:
        vectors = golden.parse((directory / manifest.golden.file).read_bytes())
    except (OSError, BundleError) as error:
        raise SelfTestFailed(f"the golden vectors cannot be read: {error}") from error
    inputs = [_real(vectors.inputs, port, vectors.rows) for port in model.inputs]
    told = [_real(vectors.outputs, port, vectors.rows) for port in model.outputs]
    wanted = told if other is None else other.answers
    answers = [np.empty_like(each) for each in told]
    lsb = absolute = 0.0
    latency_us = np.zeros(vectors.rows)
    rows = [
        [port.store(each[row]) for each, port in zip(inputs, model.inputs, strict=True)]
        for row in range(vectors.rows)
    ]
    for row, stored in enumerate(rows):
        started = time.perf_counter_ns()
        outputs = model.run(stored)
        latency_us[row] = (time.perf_counter_ns() - started) / 1000
        for place, port in enumerate(model.outputs):
            answers[place][row] = port.real(outputs[place])
            off = _difference(answers[place][row], wanted[place][row], port)
            lsb, absolute = max(lsb, off[0]), max(absolute, off[1])
            _check(off, row, port, manifest)
    sample = rows[0], [each[0].copy() for each in wanted]
    return Agreement(vectors.rows, lsb, absolute, latency_us, answers), sample


def _real(arrays: dict[str, golden.RealArray], port: Port, rows: int) -> Reals:
    array = arrays.get(port.name)
    if array is None or int(np.prod(array.shape)) != rows * port.size:
        raise SelfTestFailed(f"the golden vectors do not fit the tensor {port.name!r}")
    values = np.frombuffer(array.data, dtype="<f4").astype(np.float32)
    return values.reshape(rows, port.size)


def _difference(real: Reals, wanted: Reals, port: Port) -> tuple[float, float]:
    """Return the largest difference in quantization steps (0 where there are none) and in units."""
    with np.errstate(invalid="ignore"):
        off = np.abs(real - wanted)
    if not port.is_quantized:
        return 0.0, float(np.max(off - _RELATIVE * np.abs(wanted), initial=0.0))
    largest = float(np.max(off, initial=0.0))
    return largest / port.tensor.scale, largest


def _check(off: tuple[float, float], row: int, port: Port, manifest: Manifest) -> None:
    lsb, absolute = off
    fact = manifest.golden
    if port.is_quantized:
        # Half a step of slack for the float32 arithmetic of the steps themselves.
        is_near, bound = lsb <= fact.tolerance_lsb + 0.01, f"{fact.tolerance_lsb:g} steps"
    else:
        is_near, bound = absolute <= fact.tolerance_absolute, f"{fact.tolerance_absolute:g}"
    if not is_near:
        raise SelfTestFailed(
            f"golden vector {row}: output {port.name!r} is off by {absolute:g} "
            f"({lsb:.1f} steps), more than {bound}"
        )
