"""What a TensorFlow Lite model says of itself, read without running it.

Inputs, outputs and operations of the main subgraph, as far as a manifest states them. The file is
hostile input: it is read through `flatbuffer`, and counts are limited. Slots and enumerations
follow TensorFlow's schema.fbs, version 3.
"""

from __future__ import annotations

from math import isfinite
from typing import Final, NamedTuple

from firmware_bundles import flatbuffer, limits, operations
from firmware_bundles.errors import BundleTooLarge, ModelUnusable
from firmware_bundles.flatbuffer import Table
from firmware_bundles.manifest import Datatype, Tensor

_IDENTIFIER: Final = b"TFL3"
_ITEMS_MAX: Final = 65_536
_SUBGRAPHS_MAX: Final = 64
_SIGNATURES_MAX: Final = 16

# TensorType of the schema; the others cannot be an input or output of a served model.
_DATATYPES: Final[dict[int, Datatype]] = {
    0: "FP32", 1: "FP16", 2: "INT32", 3: "UINT8", 4: "INT64", 6: "BOOL", 7: "INT16", 9: "INT8",
    10: "FP64", 12: "UINT64", 15: "UINT32", 16: "UINT16",
}  # fmt: skip

_CUSTOM: Final = operations.NAMES.index("CUSTOM")


class ModelFacts(NamedTuple):
    """Inputs and outputs in the order of the model, and each operation with its newest version."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operations: dict[str, int]


def read(data: bytes) -> ModelFacts:
    """Return the facts of a .tflite file. Raises ModelUnusable or BundleTooLarge."""
    if len(data) > limits.FILE_BYTES_MAX:
        raise BundleTooLarge(
            f"the model has {len(data)} bytes; {limits.FILE_BYTES_MAX} are allowed"
        )
    model = flatbuffer.root(data, _IDENTIFIER)
    subgraphs = list(model.tables(2, _SUBGRAPHS_MAX))
    if not subgraphs:
        raise ModelUnusable("the model has no graph")
    inputs, outputs = _names(model)
    return ModelFacts(
        inputs=_tensors(subgraphs[0], 1, inputs, "input"),
        outputs=_tensors(subgraphs[0], 2, outputs, "output"),
        operations=_operations(model, subgraphs),
    )


def _names(model: Table) -> tuple[dict[int, str], dict[int, str]]:
    """Return what the first signature of the main graph calls its tensors, by tensor index."""
    for signature in model.tables(7, _SIGNATURES_MAX):
        if signature.scalar(4, "I") == 0:
            return _mapping(signature, 0), _mapping(signature, 1)
    return {}, {}


def _mapping(signature: Table, slot: int) -> dict[int, str]:
    return {
        entry.scalar(1, "I"): entry.text(0, limits.TEXT_CHARS_MAX)
        for entry in signature.tables(slot, limits.TENSORS_MAX)
    }


def _tensors(graph: Table, slot: int, names: dict[int, str], what: str) -> tuple[Tensor, ...]:
    tables = list(graph.tables(0, _ITEMS_MAX))
    indices = [int(index) for index in graph.numbers(slot, "i", limits.TENSORS_MAX)]
    if not indices:
        raise ModelUnusable(f"the model has no {what}")
    if any(not 0 <= index < len(tables) for index in indices):
        raise ModelUnusable(f"the model names an {what} that it does not have")
    found = tuple(_tensor(tables[index], names.get(index, ""), what) for index in indices)
    if len({tensor.name for tensor in found}) != len(found):
        raise ModelUnusable(f"the model has two {what}s of one name")
    return found


def _tensor(table: Table, signature_name: str, what: str) -> Tensor:
    name = signature_name or table.text(3, limits.TEXT_CHARS_MAX)
    if not name:
        raise ModelUnusable(f"the model has an {what} without a name")
    datatype = _DATATYPES.get(table.scalar(1, "b"))
    if datatype is None:
        raise ModelUnusable(
            f"{what} {name!r:.80} has a type that cannot be served: strings, complex numbers, "
            "resources and variants are not"
        )
    scale, zero_point = _quantization(table.table(4), name)
    return Tensor(
        name=name,
        datatype=datatype,
        shape=_shape(table, name),
        scale=scale,
        zero_point=zero_point,
    )


def _shape(table: Table, name: str) -> tuple[int, ...]:
    shape = tuple(int(extent) for extent in table.numbers(0, "i", limits.TENSOR_RANK_MAX))
    if any(extent < 1 for extent in (*shape, *table.numbers(7, "i", limits.TENSOR_RANK_MAX))):
        raise ModelUnusable(
            f"tensor {name!r:.80} has a dynamic shape {list(shape)}",
            hint="Convert the model with a static batch of 1.",
        )
    return shape


def _quantization(table: Table | None, name: str) -> tuple[float, int]:
    scales = table.numbers(2, "f", _ITEMS_MAX) if table else ()
    if not table or not scales:
        return 0.0, 0
    zero_points = table.numbers(3, "q", _ITEMS_MAX) or (0,)
    if len(scales) > 1 or len(zero_points) > 1:
        raise ModelUnusable(f"tensor {name!r:.80} is quantized per channel; inputs never are")
    if not isfinite(scales[0]) or scales[0] < 0:
        raise ModelUnusable(f"tensor {name!r:.80} has the scale {scales[0]}")
    return float(scales[0]), int(zero_points[0])


def _operations(model: Table, subgraphs: list[Table]) -> dict[str, int]:
    codes = [_operation(table) for table in model.tables(1, _ITEMS_MAX)]
    used: dict[str, int] = {}
    for graph in subgraphs:
        for operator in graph.tables(3, _ITEMS_MAX):
            index = operator.scalar(0, "I")
            if index >= len(codes):
                raise ModelUnusable("the model uses an operation that it does not declare")
            name, version = codes[index]
            used[name] = max(version, used.get(name, 0))
    return dict(sorted(used.items()))


def _operation(table: Table) -> tuple[str, int]:
    # Codes beyond a byte stand in a newer field; older files fill only the old one.
    code = max(table.scalar(0, "b"), table.scalar(3, "i"))
    version = table.scalar(2, "i", 1)
    if code == _CUSTOM:
        return f"{operations.CUSTOM}{table.text(1, limits.TEXT_CHARS_MAX // 2)}", version
    if not 0 <= code < len(operations.NAMES):
        raise ModelUnusable(f"the model uses the unknown operation {code}")
    return operations.NAMES[code], version
