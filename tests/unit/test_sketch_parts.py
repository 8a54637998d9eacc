"""Segments, outcomes and business values are counted, merged, taken away and sent exactly."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bundles.errors import Malformed, ShoalError
from firmware_bundles.sketches import baseline, codec
from firmware_bundles.sketches.baseline import Baseline, Value
from firmware_bundles.sketches.outcomes import NO_ANSWER, Outcomes
from firmware_bundles.sketches.sketch import Sketch

LABELS = ("no", "maybe", "yes")
RANDOM = np.random.default_rng(9)
FACTS = msgspec.structs.replace(
    baseline.make(
        {"x": np.linspace(0, 1, 100, dtype=np.float32)[:, None]},
        RANDOM.dirichlet([1, 2, 3], 100).astype(np.float32),
        LABELS,
        bins=4,
        truth=RANDOM.integers(0, 3, 100),
    ),
    segments=("", "day", "night"),
    cycle_s=86_400.0,
    values=(Value(name="revenue", scale=256.0), Value(name="seconds", scale=1.0)),
)
PARTS = st.lists(st.integers(0, 60), min_size=1, max_size=4)


def _counted(seed: int, rows: int, facts: Baseline = FACTS) -> Sketch:
    random, sketch = np.random.default_rng(seed), Sketch(facts)
    scores = random.dirichlet([1, 1, 1], rows).astype(np.float32)
    scores[: rows // 8] = np.nan
    segments = random.integers(0, len(facts.segments), rows)
    sketch.update(random.normal(0.5, 0.5, (rows, 1)).astype(np.float32), scores, segments)
    places, labels = random.integers(0, len(facts.segments), rows), random.integers(0, 3, rows)
    sketch.outcomes.update(places, labels, random.integers(NO_ANSWER, 3, rows))
    sketch.values.update(random.normal(0, 9, (rows, len(facts.declared))))
    return sketch


def _same(one: Sketch, other: Sketch) -> bool:
    return codec.encode_sketch(one) == codec.encode_sketch(other)


def test_answers_are_counted_by_segment() -> None:
    """Each segment has its predictions, rows without an answer among them."""
    sketch, scores = Sketch(FACTS), np.eye(3, dtype=np.float32)[[0, 2, 2, 1]]
    scores[3] = np.nan
    sketch.update(np.zeros((4, 1), dtype=np.float32), scores, np.array([0, 2, 2, 1]))
    assert sketch.answers.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 2]]
    with pytest.raises(ValueError, match="not in the baseline's list"):
        sketch.update(np.zeros((1, 1), dtype=np.float32), scores[:1], np.array([3]))


@given(PARTS)
def test_merge_and_difference_undo_each_other(parts: list[int]) -> None:
    """What was merged can be taken away again: every counter and sum is as before."""
    whole = Sketch(FACTS)
    for seed, rows in enumerate(parts):
        whole.merge(_counted(seed, rows))
    for seed, rows in enumerate(parts[:-1]):
        whole.subtract(_counted(seed, rows))
    last = _counted(len(parts) - 1, parts[-1])
    for name in ("rows", "counts", "total", "total2", "answers"):
        assert np.array_equal(getattr(whole, name), getattr(last, name))
    assert np.array_equal(whole.outcomes.table(), last.outcomes.table())
    assert whole.values.total2.tolist() == last.values.total2.tolist()
    assert (whole.minimum <= last.minimum).all()
    codec.parse_sketch(codec.encode_sketch(whole), FACTS)


def test_what_was_never_counted_cannot_be_taken_away() -> None:
    """A difference below zero is refused and nothing changes."""
    small, large = _counted(1, 10), _counted(2, 500)
    before = codec.encode_sketch(small)
    with pytest.raises(ValueError, match="never"):
        small.subtract(large)
    assert codec.encode_sketch(small) == before


def test_a_thousand_devices_are_the_pooled_sketch() -> None:
    """The merge of 1,000 device sketches has the bytes of one sketch of all their rows."""
    rows = RANDOM.normal(0.5, 0.5, (1_000, 20, 1)).astype(np.float32)
    scores = RANDOM.dirichlet([1, 2, 3], (1_000, 20)).astype(np.float32)
    segments = RANDOM.integers(0, 3, (1_000, 20))
    values = RANDOM.normal(0, 9, (1_000, 20, 2))
    pooled, merged = Sketch(FACTS), Sketch(FACTS)
    pooled.update(rows.reshape(-1, 1), scores.reshape(-1, 3), segments.ravel())
    pooled.values.update(values.reshape(-1, 2))
    pooled.outcomes.update(segments.ravel(), segments.ravel(), scores.reshape(-1, 3).argmax(axis=1))
    for device in RANDOM.permutation(1_000):
        here = Sketch(FACTS)
        here.update(rows[device], scores[device], segments[device])
        here.values.update(values[device])
        here.outcomes.update(segments[device], segments[device], scores[device].argmax(axis=1))
        merged.merge(codec.parse_sketch(codec.encode_sketch(here), FACTS))
    assert pooled.rows == 20_000
    assert _same(merged, pooled)


@given(st.integers(0, 99), st.integers(0, 60))
def test_a_sketch_with_all_its_parts_survives_its_bytes(seed: int, rows: int) -> None:
    """Format 2 gives back what was counted."""
    sketch = _counted(seed, rows)
    body = codec.encode_sketch(sketch)
    again = codec.parse_sketch(body, FACTS)
    assert body[0] == 2
    assert codec.encode_sketch(again) == body
    assert np.array_equal(again.answers, sketch.answers)
    assert np.array_equal(again.outcomes.table(), sketch.outcomes.table())


def test_a_window_without_segments_is_still_of_format_1() -> None:
    """A sketch of a baseline that declares nothing more has the bytes that it always had."""
    plain = msgspec.structs.replace(
        FACTS, segments=("",), cycle_s=msgspec.UNSET, right=msgspec.UNSET, values=msgspec.UNSET
    )
    sketch = Sketch(plain)
    sketch.update(np.zeros((4, 1), dtype=np.float32), np.eye(3, dtype=np.float32)[[0, 1, 2, 2]])
    body = codec.encode_sketch(sketch)
    assert body[0] == 1
    assert codec.parse_sketch(body, plain).answers.tolist() == [[0, 1, 1, 2]]


@given(st.data())
def test_changed_numbers_are_refused_or_agree(data: st.DataObject) -> None:
    """A body with any byte of its stream changed is refused, or is a sketch whose numbers agree."""
    body = codec.encode_sketch(_counted(5, 40))
    plain = bytearray(zlib.decompress(body[9:]))
    plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = codec.parse_sketch(body[:9] + zlib.compress(bytes(plain)), FACTS)
    except ShoalError:
        return
    assert np.array_equal(read.answers.sum(axis=0), read.answered())
    assert (read.answers >= 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"segments": ("", "day", "day")},
        {"values": (Value(name="a", scale=3.0),)},
        {"right": (0, 0, 0)},
        {"right": (101,) * 23},
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    """Names are unique, scales powers of two, and right answers no more than there were rows."""
    broken = msgspec.structs.replace(FACTS, **change)
    with pytest.raises(Malformed):
        codec.parse_baseline(codec.encode_baseline(broken))


def test_a_declaring_baseline_survives_its_bytes() -> None:
    """Segments, cycle, calibration and values come back."""
    assert codec.parse_baseline(codec.encode_baseline(FACTS)) == FACTS


@pytest.mark.parametrize("place", [(3, 0, 0), (0, 3, 0), (0, 0, 3), (0, 0, -2), (-1, 0, 0)])
def test_outcomes_out_of_range_are_refused(place: tuple[int, int, int]) -> None:
    """A segment, label or prediction that does not exist is not counted as another one."""
    outcomes = Outcomes(3, 3)
    with pytest.raises(ValueError, match="place"):
        outcomes.update(*(np.array([at]) for at in place))
    assert outcomes.rows == 0


def test_values_that_were_not_given_do_not_count() -> None:
    """NaN is no value: n, mean and range are those of what was given."""
    sketch = Sketch(FACTS)
    sketch.values.update(np.array([[2.5, np.nan], [1.5, np.inf]]))
    assert sketch.values.n.tolist() == [2, 0]
    assert sketch.values.means()[0] == 2.0
    assert (sketch.values.minimum[0], sketch.values.maximum[0]) == (1.5, 2.5)
