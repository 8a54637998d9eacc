"""Real float32 models, made of the int8 samples: what a trainer had before it quantized.

Weights are the sample's own, as real values, so that accuracy is the sample's, too.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from numpy.typing import NDArray

from agent.inference import trial
from firmware_bundles import golden, model_facts
from support.bundles import Sample

_FLOAT, _INT32, _INT8 = 0, 2, 9  # TensorType
_RESIZE_BILINEAR, _AVERAGE_POOL_2D = 23, 1  # BuiltinOperator
_SAME_PADDING: Final = 0


def dequantized(model: bytes) -> bytes:
    """Return the float32 model whose weights are those of an int8 model."""
    parsed = _parsed(model)
    graph = parsed.subgraphs[0]
    for tensor in graph.tensors:
        scale = None if tensor.quantization is None else tensor.quantization.scale
        if tensor.type not in {_INT8, _INT32} or scale is None:
            continue  # shapes and paddings
        data = parsed.buffers[tensor.buffer].data
        if data is not None:
            parsed.buffers[tensor.buffer].data = _real(np.asarray(data, np.uint8), tensor)
        tensor.type, tensor.quantization = _FLOAT, None
    for code in parsed.operatorCodes:
        code.version = 1
    return _packed(parsed)


def slowed(model: bytes, size: int) -> bytes:
    """Return a float model that blurs its image in `size` x `size` pixels first: it takes long."""
    parsed = _parsed(model)
    graph = parsed.subgraphs[0]
    image = int(graph.inputs[0])
    _, height, width, _ = graph.tensors[image].shape
    sizes = _tensor(parsed, "size", (2,), _INT32, np.array([size, size], "<i4"))
    large = _tensor(parsed, "large", (1, size, size, 1), _FLOAT)
    blurred = _tensor(parsed, "blurred", (1, height, width, 1), _FLOAT)
    for operator in graph.operators:
        operator.inputs = [blurred if each == image else each for each in operator.inputs]
    pool = schema.Pool2DOptionsT()
    pool.strideH = pool.filterHeight = size // height
    pool.strideW = pool.filterWidth = size // width
    pool.padding = _SAME_PADDING
    graph.operators = [
        _operator(parsed, _RESIZE_BILINEAR, [image, sizes], large, schema.ResizeBilinearOptionsT()),
        _operator(parsed, _AVERAGE_POOL_2D, [large], blurred, pool),
        *graph.operators,
    ]
    return _packed(parsed)


def bundle(model: bytes) -> Sample:
    """Return a bundle around a float model of digits; its golden answers are its own."""
    sample = Sample("v2")
    facts = model_facts.read(model)
    sample.inputs, sample.outputs = facts.inputs, facts.outputs
    vectors = golden.parse(sample.files["golden.msgpack"])
    outputs = _answered(model, vectors)
    own = golden.GoldenVectors(inputs=vectors.inputs, outputs=outputs, labels=vectors.labels)
    sample.files |= {"model.tflite": model, "golden.msgpack": golden.encode(own)}
    return sample


def answers(model: bytes, images: NDArray[Any]) -> NDArray[np.float32]:
    """Return what a model of digits answers to images, a row each."""
    given = golden.RealArray(shape=images.shape, data=images.astype("<f4").tobytes())
    vectors = golden.GoldenVectors(inputs={"image": given}, outputs={}, labels=())
    (found,) = _answered(model, vectors).values()
    return np.frombuffer(found.data, dtype="<f4").reshape(found.shape)


def _answered(model: bytes, vectors: golden.GoldenVectors) -> dict[str, golden.RealArray]:
    with NamedTemporaryFile(suffix=".tflite") as file:
        file.write(model)
        file.flush()
        return trial.answers(Path(file.name), vectors).outputs


def _real(data: NDArray[Any], tensor: Any) -> NDArray[Any]:  # noqa: ANN401
    stored = data.view("<i1" if tensor.type == _INT8 else "<i4").reshape(tensor.shape)
    shape = [1] * stored.ndim
    shape[tensor.quantization.quantizedDimension] = -1
    scale = np.asarray(tensor.quantization.scale, np.float32).reshape(shape)
    zero = np.asarray(tensor.quantization.zeroPoint, np.float32).reshape(shape)
    real = (stored.astype(np.float32) - zero) * scale
    return np.frombuffer(real.astype("<f4").tobytes(), dtype=np.uint8)


def _tensor(
    parsed: Any,  # noqa: ANN401 - untyped, as all of the schema
    name: str,
    shape: tuple[int, ...],
    kind: int,
    values: NDArray[Any] | None = None,
) -> int:
    """Add a tensor, and return its index."""
    buffer, made = schema.BufferT(), schema.TensorT()
    if values is not None:
        buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    parsed.buffers.append(buffer)
    made.name, made.shape, made.type = name, list(shape), kind
    made.buffer = len(parsed.buffers) - 1
    tensors = parsed.subgraphs[0].tensors
    tensors.append(made)
    return len(tensors) - 1


def _operator(
    parsed: Any,  # noqa: ANN401
    number: int,
    inputs: list[int],
    output: int,
    options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    code, made = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = 1
    parsed.operatorCodes.append(code)
    made.opcodeIndex = len(parsed.operatorCodes) - 1
    made.inputs, made.outputs = inputs, [output]
    kind = type(options).__name__.removesuffix("T")
    made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    made.builtinOptions = options
    return made


def _parsed(model: bytes) -> Any:  # noqa: ANN401
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))


def _packed(parsed: Any) -> bytes:  # noqa: ANN401
    builder = Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())
