"""The Backend on an accelerator of LiteRT's CompiledModel: a GPU, or an NPU's plug-in.

The CPU is never allowed beside it: with it, LiteRT answers from the CPU alone when the accelerator
is not there, and calls that fully accelerated. Without it a model of which a plug-in takes 7 of 8
operations is refused (measured with OpenVINO's), so that what is compiled was taken whole.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.inference.backends import load_runtime
from agent.inference.delegates import Compiled
from agent.inference.quantization import DTYPES, Stored
from agent.inference.verdicts import Coverage
from firmware_bundles.errors import ModelUnusable, RuntimeUnsupported
from firmware_bundles.manifest import Manifest


class CompiledBackend:
    """One compiled model with its buffers, behind one lock: they hold one input at a time."""

    def __init__(self, path: Path, manifest: Manifest, delegate: Compiled) -> None:
        """Compile the model. Raises ModelUnusable, RuntimeUnsupported."""
        module, self.runtime = load_runtime()
        self.delegate = delegate.name
        self._lock = threading.Lock()
        self._wanted = manifest.outputs
        try:
            model = _compile(path, delegate)
            (self._signature,) = model.get_signature_list()
            self._inputs = {
                each.name: model.create_input_buffer_by_name(self._signature, each.name)
                for each in manifest.inputs
            }
            self._outputs = {
                each.name: model.create_output_buffer_by_name(self._signature, each.name)
                for each in manifest.outputs
            }
            plain = module.Interpreter(model_path=str(path), num_threads=1)
            self._operations = len(plain._get_ops_details())  # noqa: SLF001 - no other way
        except (OSError, ValueError, RuntimeError, SystemError) as error:
            raise ModelUnusable(f"{self.runtime} cannot compile it: {error!s:.400}") from error
        self._model = model

    def coverage(self) -> Coverage:
        """Return the whole model: nothing else was allowed to run a part of it."""
        return Coverage(1, self._operations, self._operations)

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Write, run and read under the lock. Raises ModelUnusable when the accelerator fails."""
        with self._lock:
            try:
                for buffer, values in zip(self._inputs.values(), inputs, strict=True):
                    buffer.write(values)
                self._model.run_by_name(self._signature, self._inputs, self._outputs)
                return [
                    self._outputs[each.name]
                    .read(int(np.prod(each.shape)), DTYPES[each.datatype])
                    .reshape(each.shape)
                    for each in self._wanted
                ]
            except (ValueError, RuntimeError) as error:
                raise ModelUnusable(f"the accelerator failed at an input: {error}") from error


def _compile(path: Path, delegate: Compiled) -> Any:  # noqa: ANN401 - untyped
    try:
        litert = importlib.import_module("ai_edge_litert.compiled_model")
    except ImportError as error:
        raise RuntimeUnsupported(
            f"this runtime has no CompiledModel: {error}",
            hint="Only ai-edge-litert has it: install the extra 'agent'.",
        ) from error
    for library in delegate.preload:  # a plug-in is linked to what the loader would not find
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    environment = litert.Environment.create(
        runtime_path=str(Path(str(litert.__file__)).parent),
        compiler_plugin_path=delegate.compiler or "",
        dispatch_library_path=delegate.dispatch or "",
    )
    openvino = litert.IntelOpenVinoOptions()
    if delegate.openvino_device is not None:
        devices = litert.IntelOpenVinoOptions.GRAPH_BACKEND
        openvino.graph_backend = devices[delegate.openvino_device.upper()]
    accelerator = litert.HardwareAccelerator[delegate.accelerator.upper()]
    options = litert.Options(hardware_accelerators=accelerator, intel_openvino_options=openvino)
    return litert.CompiledModel.from_file(str(path), environment=environment, options=options)
