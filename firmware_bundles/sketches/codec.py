"""Baselines and sketches as bytes, and back.

Hostile bytes end in Malformed or a sketch whose numbers agree.

A sketch travels without its bins: one version byte, eight bytes that name its baseline, then a zlib
stream of LEB128 numbers (rows, counters, sums in zigzag, sums of squares) and little-endian float32
minima and maxima.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import pairwise
from math import isfinite

import msgspec
import numpy as np

from firmware_bundles import limits
from firmware_bundles.errors import Malformed, VersionUnsupported
from firmware_bundles.sketches.baseline import (
    QUANTUM_MAX,
    ROWS_MAX,
    SCHEMA,
    Baseline,
    Column,
    ColumnKind,
)
from firmware_bundles.sketches.layout import layout_of
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.wire import varints
from firmware_bundles.wire.compression import deflate, inflate

BASELINE_BYTES_MAX = 4 * 1024 * 1024

_VERSION = 1
_NAME_BYTES = 8
_HEAD_BYTES = 1 + _NAME_BYTES
_FLOAT = np.dtype("<f4")


def encode_baseline(baseline: Baseline) -> bytes:
    """Return the bytes of a bundle's baseline file."""
    return bytes([_VERSION]) + deflate(msgspec.msgpack.encode(baseline, order="deterministic"))


def parse_baseline(data: bytes) -> Baseline:
    """Parse a baseline file. Raises Malformed or VersionUnsupported."""
    _check_version(data, "baseline")
    plain = inflate(data[1:], BASELINE_BYTES_MAX, "the baseline")
    try:
        baseline = msgspec.msgpack.decode(plain, type=Baseline)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the baseline cannot be read: {error}") from error
    if baseline.schema.split(".")[0] != SCHEMA.split(".")[0]:
        raise VersionUnsupported(f"the baseline has schema {baseline.schema!r:.20}, not {SCHEMA}")
    _check_columns(baseline)
    return baseline


def encode_sketch(sketch: Sketch) -> bytes:
    """Return the body of a window segment."""
    numbers = np.concatenate(
        ([sketch.rows], sketch.counts, varints.zigzag(sketch.total), sketch.total2)
    )
    ranges = np.concatenate((sketch.minimum, sketch.maximum)).astype(_FLOAT)
    plain = varints.encode(numbers) + ranges.tobytes()
    return bytes([_VERSION]) + _name(sketch.baseline) + deflate(plain)


def parse_sketch(data: bytes, baseline: Baseline) -> Sketch:
    """Parse a window segment's body that was counted against `baseline`.

    Raises Malformed or VersionUnsupported.
    """
    _check_version(data, "sketch")
    if data[1:_HEAD_BYTES] != _name(baseline):
        raise Malformed("the sketch was counted against another baseline")
    layout, width = layout_of(baseline), len(baseline.columns)
    count = 1 + layout.size + 2 * width
    ranges_bytes = 2 * width * _FLOAT.itemsize
    plain = inflate(data[_HEAD_BYTES:], 10 * count + ranges_bytes, "the sketch")
    numbers = varints.decode(plain, 0, count, "the sketch")
    if len(plain) - numbers.end != ranges_bytes:
        raise Malformed("the sketch has other columns than its baseline")
    sketch = Sketch(baseline)
    sketch.rows = int(numbers.values[0])
    sketch.counts, total, sketch.total2 = np.split(
        numbers.values[1:], [layout.size, layout.size + width]
    )
    sketch.total = varints.unzigzag(total)
    ranges = np.frombuffer(plain, dtype=_FLOAT, offset=numbers.end).astype(np.float32)
    sketch.minimum, sketch.maximum = ranges[:width].copy(), ranges[width:].copy()
    _check_numbers(sketch)
    return sketch


@lru_cache(maxsize=64)
def _name(baseline: Baseline) -> bytes:
    data = msgspec.msgpack.encode(baseline, order="deterministic")
    return hashlib.sha256(data).digest()[:_NAME_BYTES]


def _check_version(data: bytes, what: str) -> None:
    if len(data) < 2:  # noqa: PLR2004 - the version, and something after it
        raise Malformed(f"the {what} is empty")
    if data[0] != _VERSION:
        raise VersionUnsupported(f"the {what} has format {data[0]}; this side reads {_VERSION}")


def _check_numbers(sketch: Sketch) -> None:
    """Every row falls into exactly one counter of each column, and bounds the sums."""
    if sketch.rows > ROWS_MAX or (sketch.counts > sketch.rows).any():
        raise Malformed("the sketch counts more than its rows")
    starts = sketch.layout.offsets[:-1]
    if (np.add.reduceat(sketch.counts, starts) != sketch.rows).any():
        raise Malformed("the sketch's counters do not add up to its rows")
    known = sketch.rows - sketch.counts[starts]
    is_apart = np.abs(sketch.total) > known * QUANTUM_MAX
    is_apart |= sketch.total2 > known * QUANTUM_MAX**2
    is_finite = np.isfinite(sketch.minimum) & np.isfinite(sketch.maximum)
    is_apart |= np.where(known > 0, ~is_finite | ~(sketch.minimum <= sketch.maximum), is_finite)
    if is_apart.any():
        raise Malformed("the sketch's sums and ranges cannot come from its rows")


def _check_columns(baseline: Baseline) -> None:
    order = [list(ColumnKind).index(column.kind) for column in baseline.columns]
    singles = [kind for kind in order if kind >= list(ColumnKind).index(ColumnKind.CONFIDENCE)]
    if order != sorted(order) or singles != ([2, 3] if baseline.labels else []):
        raise Malformed("the baseline's columns are not features, scores, confidence, class")
    with np.errstate(over="ignore"):
        for column in baseline.columns:
            _check_column(column, baseline)
    cells = sum(len(column.counts) for column in baseline.columns)
    if cells > limits.COLUMNS_MAX * (limits.BINS_MAX + 3):
        raise Malformed(f"the baseline has {cells} counters, too many")
    _check_numbers(Sketch.of_held_out(baseline))


def _check_column(column: Column, baseline: Baseline) -> None:
    bounds = {ColumnKind.FEATURE: baseline.features, ColumnKind.SCORE: len(baseline.labels)}
    edges_max = limits.BINS_MAX + 1
    if column.kind is ColumnKind.CLASS:
        edges_max = len(baseline.labels) + 1
    is_sound = (
        column.position < bounds.get(column.kind, 1)
        and all(first < second for first, second in pairwise(column.edges))
        and all(isfinite(edge) and float(np.float32(edge)) == edge for edge in column.edges)
        and len(column.edges) <= edges_max
        and len(column.counts) == len(column.edges) + 2
        and sum(column.counts) == baseline.rows
        and np.log2(column.scale) % 1 == 0
    )
    if column.kind is ColumnKind.CLASS:
        is_sound = is_sound and len(column.edges) == edges_max
    if not is_sound:
        raise Malformed(f"column {column.name!r:.80} of the baseline contradicts itself")
