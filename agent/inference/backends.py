"""The port to an interpreter, and the one adapter behind it: LiteRT, or the older tflite-runtime.

Both have the same surface. Arrays here are what the model stores; real values are
`quantization`'s affair. A model file may crash the process that loads it: `selftest` goes first.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np

from agent.inference import verdicts
from agent.inference.delegates import CPU, External
from agent.inference.quantization import DTYPES, Stored
from agent.inference.verdicts import Coverage
from firmware_bundles.errors import ModelUnusable, RuntimeUnsupported
from firmware_bundles.manifest import Manifest, Tensor
from firmware_bundles.model_facts import ModelFacts

_RUNTIMES: Final = (
    ("ai_edge_litert", "ai-edge-litert"),
    ("tflite_runtime", "tflite-runtime"),
)
_SCALE_TOLERANCE: Final = 1e-6


class Backend(Protocol):
    """A model that is ready to run."""

    runtime: str
    delegate: str

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Return the outputs in the manifest's order; safe to call from several threads."""


class LiteRtBackend:
    """One interpreter behind one lock: two threads in it give wrong answers."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest | ModelFacts,
        *,
        threads: int = 1,
        delegate: External | None = None,
    ) -> None:
        """Load the model. Raises ModelUnusable, RuntimeUnsupported."""
        module, self.runtime = load_runtime()
        self.delegate = CPU if delegate is None else delegate.name
        self._lock = threading.Lock()
        try:
            self._interpreter = module.Interpreter(
                model_path=str(path), num_threads=threads, **_delegation(module, delegate)
            )
            self._interpreter.allocate_tensors()
        except (OSError, ValueError, RuntimeError, SystemError) as error:
            reason = " ".join(str(error).split())
            what = path.name if delegate is None else f"{path.name} with the delegate"
            raise ModelUnusable(f"{self.runtime} cannot load {what}: {reason}") from error
        inputs, outputs = _details(self._interpreter)
        self._inputs = [_match(tensor, inputs, "input") for tensor in manifest.inputs]
        self._outputs = [_match(tensor, outputs, "output") for tensor in manifest.outputs]

    def coverage(self) -> Coverage:
        """Return how much of the model its delegate took; only of use with one."""
        return verdicts.coverage(self._interpreter._get_ops_details())  # noqa: SLF001 - no other way

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Set, invoke and copy under the lock. Raises ModelUnusable when the model fails."""
        interpreter = self._interpreter
        with self._lock:
            try:
                for index, values in zip(self._inputs, inputs, strict=True):
                    interpreter.set_tensor(index, values)
                interpreter.invoke()
                return [interpreter.get_tensor(index) for index in self._outputs]
            except (ValueError, RuntimeError) as error:
                raise ModelUnusable(f"the model failed at an input: {error}") from error


def load_runtime() -> tuple[ModuleType, str]:
    """Return the interpreter module that is installed, and its name with version.

    Raises RuntimeUnsupported when there is none.
    """
    for package, distribution in _RUNTIMES:
        try:
            module = __import__(f"{package}.interpreter", fromlist=["Interpreter"])
        except ImportError:
            continue
        # Not importlib.metadata: it would be a fortieth of all that a worker holds in memory.
        return module, f"{distribution} {sys.modules[package].__version__}"
    raise RuntimeUnsupported(
        "no interpreter is installed", hint="Install the extra 'agent' or 'agent-tflite-runtime'."
    )


def _delegation(module: ModuleType, delegate: External | None) -> dict[str, Any]:
    """Return the interpreter's arguments for a delegate.

    XNNPACK is left out then: its nodes could not be told from the delegate's.
    """
    if delegate is None:
        return {}
    return {
        "experimental_delegates": [module.load_delegate(delegate.library, delegate.options)],
        "experimental_op_resolver_type": module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }


def _details(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401 - untyped
    """Return inputs and outputs by the names that the signature gives, else by the graph's."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return runner.get_input_details(), runner.get_output_details()
    return (
        {each["name"]: each for each in interpreter.get_input_details()},
        {each["name"]: each for each in interpreter.get_output_details()},
    )


def _match(tensor: Tensor, details: dict[str, Any], kind: str) -> int:
    """Return the index of the model's tensor after checking it against the manifest."""
    found = details.get(tensor.name)
    if found is None:
        raise ModelUnusable(f"the model has no {kind} {tensor.name!r}, only {sorted(details)}")
    scale, zero_point = found["quantization"]
    shape = tuple(int(extent) for extent in found["shape"])
    is_same = (
        shape == tuple(tensor.shape)
        and np.dtype(found["dtype"]) == DTYPES[tensor.datatype]
        and abs(scale - tensor.scale) <= _SCALE_TOLERANCE * max(scale, tensor.scale)
        and int(zero_point) == tensor.zero_point
    )
    if not is_same:
        raise ModelUnusable(
            f"{kind} {tensor.name!r} of the model is {np.dtype(found['dtype']).name} {shape} "
            f"scale {scale:g} zero point {zero_point}; the manifest says {tensor.datatype} "
            f"{tuple(tensor.shape)} scale {tensor.scale:g} zero point {tensor.zero_point}"
        )
    return int(found["index"])
