"""Floors of versions, and by which time is judged: pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import BUILD_TIME, Clock
from firmware_bundles.errors import RollbackAttempt
from firmware_bundles.trust import floors, times
from firmware_bundles.trust.floors import Mark

NOW = 1_800_000_000.0
YEAR_S = 366 * 86400.0
KEYS = st.lists(st.sampled_from("abc"), unique=True).map(tuple)
MARKS = st.dictionaries(
    st.sampled_from(["root", "timestamp", "digits"]),
    st.builds(Mark, version=st.integers(1, 9), keys=KEYS),
)


@given(MARKS, MARKS)
def test_no_version_goes_back_unless_a_key_was_taken_away(
    known: dict[str, Mark], found: dict[str, Mark]
) -> None:
    """And what was not looked at keeps its floor."""
    try:
        after = floors.raised(known, found)
    except RollbackAttempt:
        assert any(
            role in known
            and found[role].version < known[role].version
            and set(known[role].keys) <= set(found[role].keys)
            for role in found
        )
        return
    assert after == {**known, **found}
    for role, mark in known.items():
        is_rotated = not set(mark.keys) <= set(after[role].keys)
        assert is_rotated or after[role].version >= mark.version


@pytest.mark.parametrize(
    ("own", "floor", "vouched", "expected"),
    [
        (NOW, BUILD_TIME, None, NOW),
        (0.0, NOW, None, NOW),
        (0.0, BUILD_TIME, NOW, NOW),
        (NOW - 9e5, BUILD_TIME, NOW, NOW),
        (NOW + 9e5, BUILD_TIME, NOW, NOW + 9e5),
        (NOW + 2 * YEAR_S, BUILD_TIME, NOW, NOW),
        (0.0, NOW, NOW - 9e5, NOW),
        (NOW + 2 * YEAR_S, NOW, NOW - 100, NOW),
    ],
)
def test_the_time_to_judge_by(
    own: float, floor: float, vouched: float | None, expected: float
) -> None:
    """Own clock, never below the floor; the director's word where the clock must be wrong."""
    assert times.judge(own=own, floor=floor, vouched=vouched) == expected


@given(st.floats(0, 1e11), st.floats(0, 1e11), st.none() | st.floats(0, 1e11))
def test_no_time_is_judged_below_the_floor(own: float, floor: float, vouched: float | None) -> None:
    """Whatever a clock shows or a director says."""
    assert times.judge(own=own, floor=floor, vouched=vouched) >= floor


def test_a_floor_goes_on_while_the_clock_stands() -> None:
    """What has passed since a time was proved is past as well."""
    elapsed = [100.0]
    clock = Clock(source=lambda: 0.0, elapsed=lambda: elapsed[0])
    clock.raise_floor(NOW)
    elapsed[0] += 50.0
    assert (clock.now(), clock.floor(), clock.is_suspect()) == (NOW + 50, NOW + 50, True)
    assert clock.raise_floor(NOW + 10) == NOW


def test_a_clock_far_ahead_is_not_used_once_the_time_is_known() -> None:
    """And it raises no floor, so that it does no harm when it is mended."""
    own = [NOW + 10 * YEAR_S]
    clock = Clock(source=lambda: own[0], elapsed=lambda: 0.0)
    assert clock.now() == own[0]
    clock.raise_floor(NOW - 5)
    assert clock.now() == own[0]
    clock.raise_floor(NOW, is_fresh=True)
    assert (clock.now(), clock.is_suspect()) == (NOW, True)
    own[0] = NOW + 60
    assert (clock.now(), clock.is_suspect()) == (NOW + 60, False)
