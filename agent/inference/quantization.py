"""Between real values and what a model stores: real = scale * (stored - zero_point). Pure numpy."""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.manifest import Tensor

Reals = NDArray[np.float32]
Stored = NDArray[Any]

REAL: Final = "FP32"
STRINGS: Final = "BYTES"  # of names that are made here: no model gives or takes them
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
# How the standard library packs whole numbers: faster than numpy, and it checks their range.
_PACKED: Final = {"INT8": "b", "UINT8": "B", "INT16": "h", "UINT16": "H", "INT32": "i"}


class Port:
    """An input or output of a model, with all that can be known before the first request.

    `datatypes` are those that a client may send, the preferred one first: real values, or what the
    model stores.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.name = tensor.name
        self.shape = tuple(tensor.shape)
        self.size = int(np.prod(self.shape))
        self.dtype = DTYPES[tensor.datatype]
        self.is_quantized = tensor.scale > 0
        self.datatypes = [tensor.datatype]
        packed = _PACKED.get(tensor.datatype)
        self.packing = struct.Struct(f"<{self.size}{packed}") if packed else None
        self.packing_real = struct.Struct(f"<{self.size}f")
        self._table: Reals | None = None
        if self.is_quantized:
            self.datatypes.insert(0, REAL)
            ends = np.iinfo(self.dtype)
            self._low, self._high = np.float32(ends.min), np.float32(ends.max)
            if int(self._high) > ends.max:  # rounded up, it would wrap to the other end
                self._high = np.nextafter(self._high, self._low)
            self._inverse = np.float32(1.0 / tensor.scale)
            self._zero_point = np.float32(tensor.zero_point)
            if self.dtype.itemsize == 1:
                every = np.arange(256, dtype=np.uint8).view(self.dtype)
                self._table = self._calculate(every)

    def store(self, values: Reals) -> Stored:
        """Return what the model stores for real values, saturated at the ends of its type."""
        if self.is_quantized:
            with np.errstate(over="ignore"):  # what is too large saturates below
                steps = values * self._inverse
            steps += self._zero_point
            np.rint(steps, out=steps)
            np.maximum(steps, self._low, out=steps)
            np.minimum(steps, self._high, out=steps)
            values = steps
        stored: Stored = values.astype(self.dtype).reshape(self.shape)
        return stored

    def real(self, stored: Stored) -> Reals:
        """Return the real values, in one dimension, of what the model stores."""
        if self._table is not None:
            return self._table.take(stored).ravel()  # a negative index counts from the end
        flat = stored.ravel()
        if self.is_quantized:
            return self._calculate(flat)
        with np.errstate(over="ignore"):  # what is too large for FP32 is infinite in it
            return flat.astype(np.float32)

    def _calculate(self, stored: Stored) -> Reals:
        real = (stored.astype(np.float32) - self._zero_point) * np.float32(self.tensor.scale)
        return np.asarray(real, dtype=np.float32)
