"""Golden vectors: inputs with the answers that the owner's runtime gave, as one file of a bundle.

Real values (float32) on both sides, so that they hold for every runtime and delegate. How they are
compared stands in the agent's self-test.
"""

from __future__ import annotations

from math import prod
from typing import Annotated

import msgspec
from msgspec import Meta

from firmware_bundles import limits
from firmware_bundles.errors import ManifestInvalid

_FLOAT32_BYTES = 4


class RealArray(msgspec.Struct, frozen=True, kw_only=True):
    """A float32 array, little-endian, C order; the first extent counts rows."""

    shape: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1, max_length=9)]
    data: bytes

    def __post_init__(self) -> None:
        """Refuse a shape that its data do not fill."""
        if prod(self.shape) * _FLOAT32_BYTES != len(self.data):
            raise ValueError(f"shape {self.shape} does not fit {len(self.data)} bytes of float32")


class GoldenVectors(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of inputs and outputs by tensor name; `labels` are true class indices where known."""

    schema: str = "1.0"
    inputs: Annotated[dict[str, RealArray], Meta(min_length=1, max_length=limits.TENSORS_MAX)]
    outputs: Annotated[dict[str, RealArray], Meta(min_length=1, max_length=limits.TENSORS_MAX)]
    labels: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many vectors there are."""
        return next(iter(self.inputs.values())).shape[0]


def encode(vectors: GoldenVectors) -> bytes:
    """Return the bytes of the file."""
    return msgspec.msgpack.encode(vectors, order="deterministic")


def parse(data: bytes) -> GoldenVectors:
    """Parse the file. Raises ManifestInvalid."""
    if len(data) > limits.FILE_BYTES_MAX:
        raise ManifestInvalid(f"the golden vectors have {len(data)} bytes, too many")
    try:
        vectors = msgspec.msgpack.decode(data, type=GoldenVectors)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestInvalid(f"the golden vectors cannot be read: {error}") from error
    arrays = (*vectors.inputs.values(), *vectors.outputs.values())
    if {array.shape[0] for array in arrays} != {vectors.rows} or (
        vectors.labels and len(vectors.labels) != vectors.rows
    ):
        raise ManifestInvalid("the golden vectors do not have the same number of rows throughout")
    return vectors
