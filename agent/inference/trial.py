"""Runs a model on rows of inputs, in a process with limits: for who builds a bundle of it.

    python -I -m agent.inference.trial MODEL VECTORS SECONDS

VECTORS is a file of golden vectors; its outputs are not looked at. The answers go to standard
output; a refusal is one JSON line on standard error, with status 3.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from agent.inference import backends, children, selftest
from agent.inference.backends import LiteRtBackend
from agent.inference.control import Refusal
from agent.inference.quantization import Port, Reals
from firmware_bundles import golden, model_facts
from firmware_bundles.conversion import Answered
from firmware_bundles.errors import ModelUnusable, ShoalError
from firmware_bundles.golden import GoldenVectors, RealArray

REFUSED: Final = 3
_COPIES: Final = 4  # what the rows and their answers may take beside the model
_FLOAT32_BYTES: Final = 4


def answers(model: Path, vectors: GoldenVectors) -> Answered:
    """Return the model's answers row by row. Raises ModelUnusable, RuntimeUnsupported."""
    facts = model_facts.read(model.read_bytes())
    backends.load_runtime()  # what the interpreter itself weighs is not the model's
    before = selftest.memory_bytes_peak()
    backend = LiteRtBackend(model, facts)
    inputs, outputs = [Port(each) for each in facts.inputs], [Port(each) for each in facts.outputs]
    columns = [_column(vectors, port) for port in inputs]
    found = np.zeros((vectors.rows, sum(port.size for port in outputs)), dtype="<f4")
    for row in range(vectors.rows):
        stored = [port.store(each[row]) for port, each in zip(inputs, columns, strict=True)]
        reals = [
            port.real(each).ravel() for port, each in zip(outputs, backend.run(stored), strict=True)
        ]
        found[row] = np.concatenate(reals)
    ends = np.cumsum([port.size for port in outputs])[:-1]
    parts = np.split(found, ends, axis=1)
    return Answered(
        runtime=backend.runtime,
        memory_bytes=max(0, selftest.memory_bytes_peak() - before),
        outputs={
            port.name: RealArray(shape=part.shape, data=part.tobytes())
            for port, part in zip(outputs, parts, strict=True)
        },
    )


def _column(vectors: GoldenVectors, port: Port) -> Reals:
    array = vectors.inputs.get(port.name)
    if array is None or len(array.data) != _FLOAT32_BYTES * vectors.rows * port.size:
        raise ModelUnusable(
            f"the model's input {port.name!r} does not fit the rows; they are for "
            f"{sorted(vectors.inputs)}"
        )
    return np.frombuffer(array.data, dtype="<f4").reshape(vectors.rows, port.size)


def main() -> None:
    """Answer, or refuse."""
    model, vectors, seconds = sys.argv[1:]
    try:
        data = Path(vectors).read_bytes()
        selftest.limit(float(seconds), _COPIES * len(data))
        answered = answers(Path(model), golden.parse(data))
    except (ShoalError, MemoryError) as error:
        _refuse(children.refusal(error, "the trial"))
    sys.stdout.buffer.write(msgspec.msgpack.encode(answered))


def _refuse(refusal: Refusal) -> None:
    sys.stderr.buffer.write(b"\n" + msgspec.json.encode(refusal))
    sys.exit(REFUSED)


if __name__ == "__main__":
    main()
