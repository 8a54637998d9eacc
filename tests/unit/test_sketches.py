"""Sketches count by the baseline's bins, merge exactly, and survive hostile bytes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from firmware_bundles.errors import Malformed, ShoalError
from firmware_bundles.sketches import baseline, codec
from firmware_bundles.sketches.baseline import QUANTUM_MAX, Column, ColumnKind
from firmware_bundles.sketches.sketch import Sketch

LABELS = ("no", "yes")
HELD_OUT = np.random.default_rng(7)
FACTS = baseline.make(
    {
        "temperature": HELD_OUT.normal(20, 3, (200, 2)).astype(np.float32),
        "constant": np.zeros((200, 1), dtype=np.float32),
    },
    HELD_OUT.dirichlet([1.0, 2.0], 200).astype(np.float32),
    LABELS,
    bins=4,
)

values = st.floats(width=32) | st.floats(-50, 50, width=32)
features = hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(3)), elements=values)


def test_a_held_out_row_falls_into_a_bin() -> None:
    """The rows that made the bins are neither missing, below nor above."""
    sketch = Sketch.of_held_out(FACTS)
    for place in range(len(FACTS.columns)):
        missing, below, *bins, above = sketch.counts_of(place)
        assert (missing, below, above, sum(bins)) == (0, 0, 0, FACTS.rows)


def test_values_outside_and_missing_have_counters_of_their_own() -> None:
    """Not finite is missing; below the first and above the last edge are counted apart."""
    sketch = Sketch(FACTS)
    rows = [[-1e6, 20, 0], [1e6, 20, 0], [np.nan, 20, 0], [np.inf, 20, -0.0]]
    sketch.update(np.array(rows, dtype=np.float32), _scores(4))
    missing, below, *bins, above = sketch.counts_of(0)
    assert (missing, below, above, sum(bins)) == (2, 1, 1, 0)
    assert (sketch.minimum[0], sketch.maximum[0]) == (-1e6, 1e6)


def test_the_class_column_counts_the_largest_score() -> None:
    """The class is the place of the largest score; scores that are not finite have none."""
    sketch = Sketch(FACTS)
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [np.nan, 1.0]], dtype=np.float32)
    sketch.update(np.zeros((4, 3), dtype=np.float32), scores)
    assert sketch.counts_of(len(FACTS.columns) - 1).tolist() == [1, 0, 1, 2, 0]


def test_moments_are_those_of_the_rows() -> None:
    """Sums in quanta give the mean and the mean square back to within half a quantum."""
    rows = np.random.default_rng(1).normal(20, 3, (500, 3)).astype(np.float32)
    sketch = Sketch(FACTS)
    sketch.update(rows, _scores(500))
    scale = FACTS.columns[0].scale
    assert sketch.total[0] / scale / 500 == pytest.approx(rows[:, 0].mean(), abs=1 / scale)
    mean_square = (rows[:, 0].astype(float) ** 2).mean()
    assert sketch.total2[0] / scale**2 / 500 == pytest.approx(mean_square, rel=1e-3)


@given(st.data(), features)
def test_each_value_is_counted_as_one_by_one(
    data: st.DataObject, rows: NDArray[np.float32]
) -> None:
    """Counters, sums and ranges are those of the plain rule, value for value."""
    score = st.floats(0, 1, width=32) | st.just(np.nan)
    scores = data.draw(hnp.arrays(np.float32, (len(rows), len(LABELS)), elements=score))
    sketch = Sketch(FACTS)
    sketch.update(rows, scores)
    for place, column in enumerate(FACTS.columns):
        found = [_value(column, *row) for row in zip(rows, scores, strict=True)]
        known = [value for value in found if math.isfinite(value)]
        passed = Counter(bisect_right(column.edges, value) + 1 for value in known)
        expected = [len(found) - len(known), *(passed[n] for n in range(1, len(column.counts)))]
        assert sketch.counts_of(place).tolist() == expected
        quanta = [_quanta(value, column.scale) for value in known]
        totals = int(sketch.total[place]), int(sketch.total2[place])
        assert totals == (sum(quanta), sum(each * each for each in quanta))
        assert sketch.minimum[place] == min(known, default=math.inf)
        assert sketch.maximum[place] == max(known, default=-math.inf)


def _value(column: Column, features: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    match column.kind:
        case ColumnKind.FEATURE:
            return float(features[column.position])
        case ColumnKind.SCORE:
            return float(scores[column.position])
        case _ if not np.isfinite(scores).all():
            return math.nan
        case ColumnKind.CONFIDENCE:
            return float(max(scores))
        case ColumnKind.CLASS:
            return float(scores.tolist().index(max(scores.tolist())))


def _quanta(value: float, scale: float) -> int:
    return round(max(-QUANTUM_MAX, min(QUANTUM_MAX, value * scale)))


@given(features, st.lists(st.integers(0, 40), max_size=5), st.randoms(use_true_random=False))
def test_merging_parts_in_any_order_is_counting_the_whole(
    rows: NDArray[np.float32], cuts: list[int], order: Random
) -> None:
    """The merge of parts is the sketch of all rows, bit for bit, whatever the order."""
    scores = _scores(len(rows))
    whole = Sketch(FACTS)
    whole.update(rows, scores)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = []
    for first, last in pairwise(bounds):
        part = Sketch(FACTS)
        part.update(rows[first:last], scores[first:last])
        parts.append(part)
    order.shuffle(parts)
    merged = Sketch(FACTS)
    for part in parts:
        merged.merge(part)
    assert codec.encode_sketch(merged) == codec.encode_sketch(whole)


@given(features)
def test_a_sketch_survives_its_bytes(rows: NDArray[np.float32]) -> None:
    """Encoding and parsing gives the same sketch."""
    sketch = Sketch(FACTS)
    sketch.update(rows, _scores(len(rows)))
    again = codec.parse_sketch(codec.encode_sketch(sketch), FACTS)
    assert again.rows == sketch.rows
    for name in ("counts", "total", "total2", "minimum", "maximum"):
        assert np.array_equal(getattr(again, name), getattr(sketch, name))


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: _encoded()[:9] + tail))
def test_garbage_is_refused_as_a_sketch(data: bytes) -> None:
    """Foreign bytes end in an error of the project, nothing else."""
    with pytest.raises(ShoalError):
        codec.parse_sketch(data, FACTS)


@given(st.binary(max_size=200))
def test_garbage_is_refused_as_a_baseline(data: bytes) -> None:
    """Foreign bytes end in an error of the project, nothing else."""
    with pytest.raises(ShoalError):
        codec.parse_baseline(data)


def test_a_sketch_that_does_not_add_up_is_refused() -> None:
    """Counters that are not the rows of their column cannot come from an honest device."""
    sketch = Sketch.of_held_out(FACTS)
    sketch.counts[3] += 1
    with pytest.raises(Malformed, match="add up"):
        codec.parse_sketch(codec.encode_sketch(sketch), FACTS)


def test_a_sketch_of_another_baseline_is_refused() -> None:
    """A sketch names the bins it was counted with."""
    other = msgspec.structs.replace(FACTS, stride=2)
    with pytest.raises(Malformed, match="another baseline"):
        codec.parse_sketch(_encoded(), other)
    with pytest.raises(ValueError, match="different baselines"):
        Sketch(other).merge(Sketch(FACTS))


def test_a_baseline_survives_its_bytes() -> None:
    """Encoding and parsing gives the same baseline."""
    assert codec.parse_baseline(codec.encode_baseline(FACTS)) == FACTS


@pytest.mark.parametrize(
    "change",
    [
        {"edges": (2.0, 1.0)},
        {"edges": (float("nan"), 1.0)},
        {"edges": (0.1, 1.0)},
        {"scale": 3.0},
        {"position": 99},
        {"total": 2**61},
        {"counts": (0, 0, 1, 0)},
        {"maximum": 3.5e38},
    ],
)
def test_a_baseline_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    """Edges, scales, places and counts of a column must fit each other."""
    first, *others = FACTS.columns
    columns = (msgspec.structs.replace(first, **change), *others)
    broken = msgspec.structs.replace(FACTS, columns=columns)
    with pytest.raises(Malformed):
        codec.parse_baseline(codec.encode_baseline(broken))


def test_a_large_input_is_watched_at_evenly_spaced_places() -> None:
    """Of an image only so many features are watched, from its first to its last."""
    image = np.zeros((3, 64, 64, 1), dtype=np.float32)
    facts = baseline.make({"image": image}, np.zeros((3, 0), dtype=np.float32), ())
    positions = [column.position for column in facts.columns]
    assert len(positions) == baseline.FEATURES_MAX
    assert (positions[0], positions[-1]) == (0, 64 * 64 - 1)


def _scores(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).dirichlet([1.0, 1.0], rows).astype(np.float32)


def _encoded() -> bytes:
    return codec.encode_sketch(Sketch.of_held_out(FACTS))
