"""Versions of roles that are signed online: they only rise, also over a restore."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.releases.role_files import next_version

HISTORY = st.lists(st.floats(1.0, 10_000.0), max_size=30)


def signed(version: int, now: float, pauses_s: list[float]) -> tuple[int, float]:
    """Return version and time after signing again after each of these pauses."""
    for pause_s in pauses_s:
        now += pause_s
        version = next_version(version, now)
    return version, now


@given(st.integers(0, 2**40), st.floats(0, 4e9))
def test_a_version_rises_and_is_never_below_the_time(present: int, now: float) -> None:
    """Whatever the clock says."""
    version = next_version(present, now)
    assert version > present
    assert version >= int(now)


@given(st.integers(0, 10), HISTORY, HISTORY, st.floats(1.0, 1e6))
def test_a_restored_control_plane_signs_above_the_lost_one(
    first: int, kept: list[float], lost: list[float], gap_s: float
) -> None:
    """It knows the history until the backup alone; what was signed since, devices know."""
    backed_up, at = signed(first, 1_800_000_000.0, kept)
    newest, end = signed(backed_up, at, lost)
    assert next_version(backed_up, end + gap_s) > newest
