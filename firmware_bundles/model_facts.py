"""What a TensorFlow Lite model says of itself, read without running it.

Inputs, outputs and operations of the main subgraph, as far as a manifest states them. The file is
hostile input: it is read through `flatbuffer`, and counts are limited. Slots and enumerations
follow TensorFlow's schema.fbs, version 3.
"""

from __future__ import annotations

from math import isfinite
from typing import Final, NamedTuple

from firmware_bundles import flatbuffer, limits
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

# BuiltinOperator of the schema, in order.
_OPERATIONS: Final = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1
    RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
    SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
    BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT
    LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG
    PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE
    EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD
    REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV
    REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
    SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE
    RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
    NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
    BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D
    IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS
    RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE
    RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD
    STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP
    STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
    STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE
    STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE
    STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT
    STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA
    STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE
    STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW
    STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
""".split()  # noqa: SIM905 - a list of quoted names is three times as long
_CUSTOM: Final = _OPERATIONS.index("CUSTOM")


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
        raise ModelUnusable(f"{what} {name!r:.80} has a type that cannot be served")
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
        return f"CUSTOM:{table.text(1, limits.TEXT_CHARS_MAX // 2)}", version
    if not 0 <= code < len(_OPERATIONS):
        raise ModelUnusable(f"the model uses the unknown operation {code}")
    return _OPERATIONS[code], version
