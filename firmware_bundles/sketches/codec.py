"""Baselines and sketches as bytes, and back.

Hostile bytes end in Malformed or a sketch whose numbers agree.

A sketch travels without its bins: one version byte, eight bytes that name its baseline, then a zlib
stream of LEB128 numbers (rows, counters, sums in zigzag, sums of squares) and little-endian float32
minima and maxima.

Format 2 is written only where there is more: after the numbers of format 1 stand the answers of all
segments but the first, the outcomes (how many cells, the steps from key to key, the counters) and
the business values (n, sums in zigzag, sums of squares), whose minima and maxima end it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import pairwise
from math import isfinite

import msgspec
import numpy as np
from msgspec import UNSET

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
from firmware_bundles.sketches.moments import Moments
from firmware_bundles.sketches.outcomes import CELLS_MAX
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.wire import varints
from firmware_bundles.wire.compression import deflate, inflate

BASELINE_BYTES_MAX = 4 * 1024 * 1024

_VERSION = 1
_VERSION_MORE = 2
_NAME_BYTES = 8
_HEAD_BYTES = 1 + _NAME_BYTES
_FLOAT = np.dtype("<f4")


def encode_baseline(baseline: Baseline) -> bytes:
    """Return the bytes of a bundle's baseline file."""
    return bytes([_VERSION]) + deflate(msgspec.msgpack.encode(baseline, order="deterministic"))


def parse_baseline(data: bytes) -> Baseline:
    """Parse a baseline file. Raises Malformed or VersionUnsupported."""
    _check_version(data, "baseline", _VERSION)
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
    outcomes, values = sketch.outcomes, sketch.values
    numbers = [np.array([sketch.rows]), sketch.counts, varints.zigzag(sketch.total), sketch.total2]
    ranges = [sketch.minimum, sketch.maximum]
    has_more = len(sketch.answers) > 1 or len(values.n) > 0 or len(outcomes.keys) > 0
    if has_more:
        steps = np.diff(outcomes.keys, prepend=0)
        numbers += [sketch.answers[1:].ravel(), np.array([len(steps)]), steps, outcomes.counts]
        numbers += [values.n, varints.zigzag(values.total), values.total2]
        ranges += [values.minimum, values.maximum]
    plain = varints.encode(np.concatenate(numbers).astype(np.int64))
    plain += np.concatenate(ranges).astype(_FLOAT).tobytes()
    version = _VERSION_MORE if has_more else _VERSION
    return bytes([version]) + _name(sketch.baseline) + deflate(plain)


def parse_sketch(data: bytes, baseline: Baseline) -> Sketch:
    """Parse a window segment's body that was counted against `baseline`.

    Raises Malformed or VersionUnsupported.
    """
    _check_version(data, "sketch", _VERSION_MORE)
    if data[1:_HEAD_BYTES] != _name(baseline):
        raise Malformed("the sketch was counted against another baseline")
    sketch, has_more = Sketch(baseline), data[0] == _VERSION_MORE
    width, declared = len(baseline.columns), len(baseline.declared) if has_more else 0
    ranges_bytes = 2 * (width + declared) * _FLOAT.itemsize
    count = 1 + sketch.layout.size + 2 * width + sketch.answers.size + 1 + 3 * declared
    count += 2 * CELLS_MAX if has_more else 0
    plain = inflate(data[_HEAD_BYTES:], 10 * count + ranges_bytes, "the sketch")
    numbers = _Numbers(plain)
    sketch.rows = int(numbers.take(1)[0])
    sketch.counts = numbers.take(sketch.layout.size)
    sketch.total, sketch.total2 = varints.unzigzag(numbers.take(width)), numbers.take(width)
    sketch.answers[0] = sketch.answered()
    if has_more:
        _take_more(numbers, sketch)
    if len(plain) - numbers.end != ranges_bytes:
        raise Malformed("the sketch has other columns than its baseline")
    ranges = np.frombuffer(plain, dtype=_FLOAT, offset=numbers.end).astype(np.float32)
    sketch.minimum, sketch.maximum = ranges[:width].copy(), ranges[width : 2 * width].copy()
    if has_more:
        sketch.values.minimum, sketch.values.maximum = np.split(ranges[2 * width :].copy(), 2)
    _check_numbers(sketch)
    _check_more(sketch)
    return sketch


class _Numbers:
    """Reads a sketch's numbers one group after the other; `end` is where the next begins."""

    def __init__(self, plain: bytes) -> None:
        self._plain = plain
        self.end = 0

    def take(self, count: int) -> varints.Integers:
        found = varints.decode(self._plain, self.end, count, "the sketch")
        self.end = found.end
        return found.values


def _take_more(numbers: _Numbers, sketch: Sketch) -> None:
    answers, outcomes, values = sketch.answers, sketch.outcomes, sketch.values
    answers[1:] = numbers.take(answers[1:].size).reshape(answers[1:].shape)
    answers[0] -= answers[1:].sum(axis=0)
    cells = int(numbers.take(1)[0])
    if cells > CELLS_MAX:
        raise Malformed(f"the sketch has {cells} sorts of outcomes; {CELLS_MAX} are allowed")
    steps, outcomes.counts = numbers.take(cells), numbers.take(cells)
    if (steps > outcomes.keys_end).any() or (steps[1:] < 1).any():
        raise Malformed("the sketch's outcomes do not rise")
    outcomes.keys = np.cumsum(steps)
    width = len(values.n)
    values.n, values.total = numbers.take(width), varints.unzigzag(numbers.take(width))
    values.total2 = numbers.take(width)


@lru_cache(maxsize=64)
def _name(baseline: Baseline) -> bytes:
    data = msgspec.msgpack.encode(baseline, order="deterministic")
    return hashlib.sha256(data).digest()[:_NAME_BYTES]


def _check_version(data: bytes, what: str, newest: int) -> None:
    if len(data) < 2:  # noqa: PLR2004 - the version, and something after it
        raise Malformed(f"the {what} is empty")
    if not _VERSION <= data[0] <= newest:
        raise VersionUnsupported(f"the {what} has format {data[0]}; this side reads up to {newest}")


def _check_numbers(sketch: Sketch) -> None:
    """Every row falls into exactly one counter of each column, and bounds the sums."""
    if sketch.rows > ROWS_MAX or (sketch.counts > sketch.rows).any():
        raise Malformed("the sketch counts more than its rows")
    starts = sketch.layout.offsets[:-1]
    if (np.add.reduceat(sketch.counts, starts) != sketch.rows).any():
        raise Malformed("the sketch's counters do not add up to its rows")
    _check_moments(sketch.rows - sketch.counts[starts], sketch)


def _check_more(sketch: Sketch) -> None:
    """Segments divide the answers; outcomes are the baseline's; values have possible moments."""
    answers, outcomes = sketch.answers, sketch.outcomes
    if (answers < 0).any() or (answers > sketch.rows).any():
        raise Malformed("the sketch's segments do not add up to its answers")
    is_wrong = (outcomes.counts < 1).any() or (outcomes.counts > ROWS_MAX).any()
    if is_wrong or (len(outcomes.keys) and outcomes.keys[-1] >= outcomes.keys_end):
        raise Malformed("the sketch's outcomes are not those of its baseline's classes")
    if (sketch.values.n > ROWS_MAX).any():
        raise Malformed("the sketch counts more values than may be")
    _check_moments(sketch.values.n, sketch.values)


def _check_moments(known: varints.Integers, of: Sketch | Moments) -> None:
    is_apart = np.abs(of.total) > known * QUANTUM_MAX
    is_apart |= of.total2 > known * QUANTUM_MAX**2
    is_finite = np.isfinite(of.minimum) & np.isfinite(of.maximum)
    is_apart |= np.where(known > 0, ~is_finite | ~(of.minimum <= of.maximum), is_finite)
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
    _check_declared(baseline)


def _check_declared(baseline: Baseline) -> None:
    """Segments and values have names of their own; the calibration table is the confidence's."""
    for names in (baseline.segments, tuple(value.name for value in baseline.declared)):
        if len(set(names)) < len(names):
            raise Malformed("the baseline names a segment or a value twice")
    if any(np.log2(value.scale) % 1 for value in baseline.declared):
        raise Malformed("the scale of a value of the baseline is no power of two")
    if baseline.right is UNSET:
        return
    counted = baseline.columns[-2].counts if baseline.labels else ()
    if len(baseline.right) != len(counted) or any(
        right > rows for right, rows in zip(baseline.right, counted, strict=True)
    ):
        raise Malformed("the baseline's calibration table does not fit its confidence column")


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
