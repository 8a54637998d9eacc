"""Histograms of latency add up exactly; percentiles lie in the bucket of the true value."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.store.tallies import LatencyRow
from control_plane.telemetry import latency, latency_bins, latency_groups
from control_plane.telemetry.ranges import Range, joined
from firmware_bundles.wire import totals

latencies = st.lists(st.integers(0, 2**40), min_size=1, max_size=60)


@given(latencies, st.floats(0.01, 1.0))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(values: list[int], share: float) -> None:
    """Its bounds hold the smallest value that so many do not exceed; the point is within them."""
    counts = latency.histogram(np.array(values, dtype=np.int64)).tolist()
    true = sorted(values)[max(1, int(np.ceil(share * len(values)))) - 1]
    found = latency.percentile(counts, share)
    assert found is not None
    assert found.low_us <= true
    assert found.high_us is None or true < found.high_us
    assert found.low_us <= found.us
    assert found.high_us is None or found.us <= found.high_us


@given(latencies, latencies)
def test_histograms_add_up(first: list[int], second: list[int]) -> None:
    """The sum of two histograms is that of all values."""
    parts = [latency.histogram(np.array(each, dtype=np.int64)) for each in (first, second)]
    whole = latency.histogram(np.array(first + second, dtype=np.int64))
    assert np.array_equal(parts[0] + parts[1], whole)
    assert whole.sum() == len(first) + len(second)
    assert len(whole) == latency.BUCKETS


@given(st.lists(latencies, max_size=6))
def test_many_runs_are_summed_up_as_each_alone(runs: list[list[int]]) -> None:
    """Histograms and totals of several runs at once are those of each by itself."""
    arrays = [np.array(run, dtype=np.int64) for run in runs]
    assert totals.totals_of_each(arrays) == [totals.totals(each) for each in arrays]
    counts = latency.histograms(arrays)
    assert counts.shape == (len(runs), latency.BUCKETS)
    assert all(np.array_equal(counts[at], latency.histogram(e)) for at, e in enumerate(arrays))


def test_of_nothing_there_is_no_percentile() -> None:
    """No counts, no number."""
    assert latency.percentile([0] * latency.BUCKETS, 0.5) is None


def test_bins_are_kept_in_the_form_that_was_agreed() -> None:
    """Pairs of bin and count, 16 bits each, low byte first: a form that is stored never changes."""
    runs = [np.array([3, 15, 16, 1_000, 1_000, 2**40]), np.array([0]), np.array([20_000] * 300)]
    assert [each.hex() for each in latency_bins.encoded(runs)] == [
        "00000200010001005f00020060010100",
        "00000100",
        "a4002c01",
    ]
    assert latency_bins.encoded([]) == []


@given(latencies, latencies, st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_percentile_of_bins_is_near_the_true_one(
    first: list[int], second: list[int], share: float
) -> None:
    """Histograms put after each other are that of all, and the error is half a bin's width."""
    values = sorted(first + second)
    parts = latency_bins.encoded([np.array(each, dtype=np.int64) for each in (first, second)])
    found = latency_bins.quantile(b"".join(parts), share)
    assert found is not None
    assert found.rows == len(values)
    ends = latency_bins.BOUNDS_US[0], latency_bins.BOUNDS_US[-1]
    true = np.clip(values[int(np.ceil(share * len(values))) - 1], *ends)
    assert abs(np.log(found.us / true)) <= latency_bins.WIDTH_LOG / 2 + 1e-12
    assert latency_bins.quantile(b"", share) is None


def _row(device: str, model: str, arm: str, latency_us: int, count: int) -> LatencyRow:
    counts = latency.histogram(np.full(count, latency_us, dtype=np.int64)).tolist()
    return LatencyRow(device, "digits", model, "1", arm, count, latency_us * count, tuple(counts))


def test_groups_add_devices_up() -> None:
    """A model's rows of one arm are one group; a row may belong to several groups or none."""
    rows = [
        _row("ant", "a", "candidate", 100, 30),
        _row("bee", "a", "candidate", 400, 10),
        _row("cat", "a", "control", 100, 5),
    ]
    by_arm = latency_groups.grouped(rows, lambda row: (row.arm,))
    assert [(each.group, each.devices, each.answered) for each in by_arm] == [
        ("candidate", 2, 40),
        ("control", 1, 5),
    ]
    assert by_arm[0].mean_us == pytest.approx(175.0)
    assert by_arm[0].p50 is not None
    assert by_arm[0].p50.low_us <= 100 < (by_arm[0].p50.high_us or 0)
    assert by_arm[0].p99 is not None
    assert by_arm[0].p99.low_us <= 400
    some = latency_groups.grouped(rows, lambda row: ("x", "y") if row.device_id == "ant" else ())
    assert [(each.group, each.answered) for each in some] == [("x", 30), ("y", 30)]


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)), max_size=20))
def test_joined_ranges_hold_the_same_numbers(parts: list[tuple[int, int]]) -> None:
    """Not one more, not one less, and no two that touch."""
    ranges = [Range(first, first + more, 1.0) for first, more in parts]
    found = joined(ranges)
    numbers = {n for each in ranges for n in range(each.first, each.last + 1)}
    assert {n for each in found for n in range(each.first, each.last + 1)} == numbers
    assert all(a.last + 1 < b.first for a, b in pairwise(found))
