"""Scores become classes: activation, order, threshold; and manifests say it compatibly."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from firmware_bundles import postprocessing
from firmware_bundles.manifest import Classification

logits = arrays.arrays(np.float32, st.integers(1, 12), elements=st.floats(-1e4, 1e4, width=32))


@given(logits)
def test_softmax_is_a_distribution_in_the_same_order(values: postprocessing.Reals) -> None:
    """It sums to one, however large the logits are, and keeps the best class."""
    scores = postprocessing.activate(values, "softmax")
    assert scores.dtype == np.float32
    assert scores.sum() == pytest.approx(1, abs=1e-4)
    assert scores[values.argmax()] == scores.max()


@given(logits)
def test_sigmoid_is_between_zero_and_one(values: postprocessing.Reals) -> None:
    """Each on its own, without a warning."""
    scores = postprocessing.activate(values, "sigmoid")
    assert ((scores >= 0) & (scores <= 1)).all()


@given(logits, st.integers(1, 12), st.none() | st.floats(0.01, 1))
def test_the_best_are_the_largest_in_order(
    values: postprocessing.Reals, count: int, threshold: float | None
) -> None:
    """Always so many as asked, the largest first, NONE below the threshold."""
    count = min(count, len(values))
    order = postprocessing.best(values, count, threshold)
    kept = [each for each in order if each != postprocessing.NONE]
    assert len(order) == count
    assert [values[each] for each in kept] == sorted(values, reverse=True)[: len(kept)]
    if threshold is not None:
        assert all(values[each] >= threshold for each in kept)
    scores = postprocessing.scores_of(values, order)
    assert scores.tolist()[: len(kept)] == [values[each] for each in kept]


def test_what_is_not_said_does_not_stand_in_the_manifest() -> None:
    """Manifests that were signed before keep their bytes, and read as they did."""
    plain = msgspec.json.encode(Classification(scores="probs"))
    assert plain == b'{"scores":"probs","labels":"labels.txt"}'
    read = msgspec.json.decode(plain, type=Classification)
    assert (read.has_score, bool(read.threshold)) == (False, False)
    full = Classification(scores="x", activation="softmax", threshold=0.5, top_k=3)
    assert msgspec.json.decode(msgspec.json.encode(full), type=Classification) == full
    assert full.has_score
