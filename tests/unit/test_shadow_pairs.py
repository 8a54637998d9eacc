"""Live answers beside a shadow's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from control_plane.telemetry.pairing import Paired, Told, judge, match
from firmware_bundles.wire.columns import Predictions

CLASSES = st.dictionaries(st.integers(1, 60), st.integers(0, 2), max_size=40)


def _rows(classes: dict[int, int]) -> Predictions:
    known = sorted(classes)
    told = np.array([classes[each] for each in known], dtype=np.int64)
    return Predictions(
        sequence=np.array(known, dtype=np.int64),
        time_ms=np.zeros(len(known), dtype=np.int64),
        classes=told,
        latency_us=np.full(len(known), 3, dtype=np.int64),
        scores=np.eye(3, dtype=np.uint8)[told] * 255,
    )


@given(CLASSES, CLASSES, CLASSES)
def test_pairs_are_the_inputs_that_both_answered(
    live: dict[int, int], shadow: dict[int, int], labels: dict[int, int]
) -> None:
    """Each is counted once, and errors only where the truth is known."""
    both = live.keys() & shadow.keys()
    alike = sum(live[each] == shadow[each] for each in both)
    assert match(_rows(live), _rows(shadow)) == Paired(pairs=len(both), agreed=alike)
    known = {each: Told(labels[each], live[each]) for each in live.keys() & labels.keys()}
    told = [(live[each], shadow[each], labels[each]) for each in both & labels.keys()]
    assert judge(known, _rows(shadow)) == Paired(
        labelled=len(told),
        live_only=sum(ours != label and theirs == label for ours, theirs, label in told),
        shadow_only=sum(ours == label and theirs != label for ours, theirs, label in told),
    )
