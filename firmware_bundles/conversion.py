"""What may have gone wrong between training and the .tflite file, found before anybody signs it.

Converters lose weights, accuracy and quantization parameters without a word, and write operations
that devices do not have. Facts of the file are looked at here; what the model answers is handed in,
for this package runs no interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from firmware_bundles import capabilities, operations
from firmware_bundles.errors import ConversionFaulty, InputError, RuntimeUnsupported, SelfTestFailed
from firmware_bundles.golden import GoldenVectors, RealArray
from firmware_bundles.manifest import Needs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bundles.manifest import Golden, Tensor
    from firmware_bundles.model_facts import ModelFacts

ACCURACY_DROP_MAX: Final = 0.02
_MEMORY_STEP_BYTES: Final = 32 * 1024 * 1024
_LSB_SLACK: Final = 0.01  # for the float32 arithmetic of the steps themselves
_RELATIVE: Final = 1e-5  # what float kernels of different runtimes may differ by


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answers, in real values by output, and the runtime that ran it.

    `memory_bytes` is the most that it took beyond the runtime itself.
    """

    runtime: str
    memory_bytes: Annotated[int, Meta(ge=0)] = 0
    outputs: dict[str, RealArray]


def memory_needed(answered: Answered) -> int:
    """Return how much memory a device must have for a model.

    Twice what was measured and some: other processors and kernels take other amounts, and a
    self-test on a device that measures more refuses the model. In large steps, so that the next
    build of the same files comes to the same.
    """
    bytes_needed = 2 * answered.memory_bytes + _MEMORY_STEP_BYTES // 2
    return -(-bytes_needed // _MEMORY_STEP_BYTES) * _MEMORY_STEP_BYTES


def parse(data: bytes) -> Answered:
    """Return the answers that a trial's child wrote, whose model may write anything.

    Raises SelfTestFailed.
    """
    try:
        return msgspec.msgpack.decode(data, type=Answered)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SelfTestFailed(f"the answers of the model cannot be read: {error}") from error


# Runs a model on the inputs of vectors. Raises ModelUnusable, SelfTestFailed, RuntimeUnsupported.
Run = Callable[[Path, GoldenVectors], Answered]


def check_facts(facts: ModelFacts, runtimes: Sequence[str]) -> None:
    """Refuse what can be seen without running the model.

    `runtimes` are those of the fleet; where none is named, one that is known has to fit.
    Raises ConversionFaulty, RuntimeUnsupported, InputError.
    """
    for tensor in (*facts.inputs, *facts.outputs):
        # Bytes of an image may be cast inside of the model; smaller integers mean nothing else.
        if tensor.datatype in {"INT8", "INT16"} and not tensor.scale:
            raise ConversionFaulty(
                f"tensor {tensor.name!r} is {tensor.datatype} without scale and zero point: "
                "nobody can tell what its values mean",
                hint="Convert with a representative data set, or leave inputs and outputs float32.",
            )
    needs = Needs(operations=facts.operations)
    lacks = {name: _lacks(needs, name) for name in runtimes or operations.RUNTIMES}
    faulty = {name: each for name, each in lacks.items() if each}
    if faulty and (runtimes or len(faulty) == len(lacks)):
        said = dict.fromkeys(sentence for each in faulty.values() for sentence in each)
        raise RuntimeUnsupported(
            f"the model cannot run on {', '.join(faulty)}: {'; '.join(said)}",
            hint="Convert with TFLITE_BUILTINS only and an older converter, "
            "or update the fleet's runtimes.",
        )


def _lacks(needs: Needs, runtime: str) -> tuple[str, ...]:
    offered = capabilities.of_runtime(runtime)
    if offered is None:
        raise InputError(
            f"{runtime!r:.80} is no runtime that is known here",
            hint=f"Known are: {', '.join(operations.RUNTIMES)}.",
        )
    return capabilities.lacking(needs, offered)


def check_golden(
    vectors: GoldenVectors, answered: Answered, outputs: Sequence[Tensor], fact: Golden
) -> None:
    """Refuse a model that does not give its own golden answers. Raises ConversionFaulty."""
    for tensor in outputs:
        wanted = _rows(vectors.outputs, tensor.name)
        off = np.abs(_rows(answered.outputs, tensor.name) - wanted)
        if tensor.scale:
            bound = (fact.tolerance_lsb + _LSB_SLACK) * tensor.scale
        else:
            off, bound = off - _RELATIVE * np.abs(wanted), fact.tolerance_absolute
        row, largest = int(np.argmax(off.max(axis=1))), float(off.max())
        if not largest <= bound:  # NaN is not near
            raise ConversionFaulty(
                f"golden vector {row}: the model answers {tensor.name!r} off by {largest:g}, "
                f"more than {bound:g}; it was run by {answered.runtime}",
                hint="Make golden vectors with the converted model, and compare its accuracy with "
                "that of the trained one (--float-model): weights may be lost.",
            )


def check_accuracy(
    converted: Answered, trained: Answered, labels: Sequence[int], scores: str, drop_max: float
) -> tuple[float, float]:
    """Return the accuracy of both. Raises ConversionFaulty where too much of it was lost."""
    before = _accuracy(trained.outputs, labels, scores)
    after = _accuracy(converted.outputs, labels, scores)
    if before - after > drop_max:
        raise ConversionFaulty(
            f"the converted model is right in {after:.1%} of {len(labels)} rows, the float model "
            f"in {before:.1%}; the drop may be {drop_max:.1%}",
            hint="Check the representative data set and that all weights are in the file; "
            "or allow more with --accuracy-drop-max.",
        )
    return before, after


def _accuracy(outputs: Mapping[str, RealArray], labels: Sequence[int], scores: str) -> float:
    return float(np.mean(_rows(outputs, scores).argmax(axis=1) == np.asarray(labels)))


def _rows(arrays: Mapping[str, RealArray], name: str) -> NDArray[np.float32]:
    array = arrays.get(name)
    if array is None:
        raise ConversionFaulty(f"the model has no output {name!r}, only {sorted(arrays)}")
    values = np.frombuffer(array.data, dtype="<f4")
    return values.reshape(array.shape[0], -1)  # the shape fits: RealArray made sure
