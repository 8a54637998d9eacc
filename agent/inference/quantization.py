"""Between real values and what a model stores: real = scale * (stored - zero_point). Pure numpy."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.manifest import Tensor

Reals = NDArray[np.float32]
Stored = NDArray[Any]

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}


def is_quantized(tensor: Tensor) -> bool:
    """Return whether the tensor stores integers that stand for real values."""
    return tensor.scale > 0


def quantize(values: Reals, tensor: Tensor) -> Stored:
    """Return what the model stores for real values, saturated at the ends of its type."""
    dtype = DTYPES[tensor.datatype]
    if not is_quantized(tensor):
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    steps = np.rint(values * np.float32(1.0 / tensor.scale)) + np.float32(tensor.zero_point)
    stored: Stored = np.clip(steps, ends.min, ends.max).astype(dtype)
    return stored


def dequantize(stored: Stored, tensor: Tensor) -> Reals:
    """Return the real values of what the model stores."""
    if not is_quantized(tensor):
        return stored.astype(np.float32)
    real = (stored.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)
    return np.asarray(real, dtype=np.float32)
