"""Distances of a window to its baseline, against values that scipy gave once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.telemetry import drift
from control_plane.telemetry.merge import merge
from firmware_bundles.sketches import distances, significance, special
from firmware_bundles.sketches.baseline import Baseline, make
from firmware_bundles.sketches.codec import encode_sketch
from firmware_bundles.sketches.sketch import Sketch

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "drift_scipy.json").read_text(encoding="utf-8")
)
COUNTS = st.lists(st.integers(0, 500), min_size=13, max_size=13)


@pytest.mark.parametrize(("x", "df", "expected"), VECTORS["chi2_sf"])
def test_chi_square_tail_agrees_with_scipy(x: float, df: int, expected: float) -> None:
    """The finite series has a relative error below 1e-12."""
    assert special.chi2_sf(x, df) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("z", "expected"), VECTORS["kolmogorov_sf"])
def test_kolmogorov_tail_agrees_with_scipy(z: float, expected: float) -> None:
    """Both series, and the place where they meet, agree."""
    assert special.kolmogorov_sf(z) == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("window", VECTORS["windows"])
def test_distances_of_a_window_agree_with_scipy(window: dict[str, Any]) -> None:
    """KS, its p-value and the JS distance are scipy's; chi-square too where no bin is merged."""
    c, r = np.array(window["c"]), np.array(window["r"])
    assert distances.ks_distance(c, r) == pytest.approx(window["ks"], abs=1e-12)
    assert significance.ks_p(c, r) == pytest.approx(window["ks_p"], rel=1e-9)
    assert distances.jensen_shannon(c, r) == pytest.approx(window["js"], rel=1e-9)
    if not window["needs_merging"]:
        assert significance.chi2_p(c, r) == pytest.approx(window["chi2_p"], rel=1e-9)


def test_thin_bins_are_merged_with_their_neighbours() -> None:
    """Bins with less than five expected rows are joined; the rest goes to the last cell."""
    c, r = np.array([1, 1, 8, 10, 1]), np.array([1, 2, 7, 10, 0])
    joined_c, joined_r = np.array([10, 11]), np.array([10, 10])
    assert significance.chi2_p(c, r) == pytest.approx(significance.chi2_p(joined_c, joined_r))


def test_psi_of_known_shares() -> None:
    """PSI of .5/.5 against .25/.75, by hand; an empty bin counts as one ten-thousandth."""
    halves, quarters = np.array([50, 50]), np.array([25, 75])
    assert distances.psi(halves, quarters) == pytest.approx(0.25 * np.log(2) - 0.25 * np.log(2 / 3))
    assert np.isfinite(distances.psi(np.array([0, 10]), np.array([5, 5])))


@given(COUNTS, COUNTS)
def test_distances_are_finite_and_within_their_ranges(c: list[int], r: list[int]) -> None:
    """Whatever was counted, also nothing at all, no number leaves its range."""
    seen, reference = np.array(c), np.array(r)
    assert np.isfinite(distances.psi(seen, reference))
    assert distances.psi(seen, reference) >= 0
    assert 0 <= distances.jensen_shannon(seen, reference) <= np.sqrt(np.log(2)) + 1e-9
    for p in (significance.ks_p(seen, reference), significance.chi2_p(seen, reference)):
        assert -1e-12 <= p <= 1 + 1e-12


def _baseline(rng: np.random.Generator) -> Baseline:
    return make(
        {"x": rng.normal(size=(2000, 3)).astype(np.float32)},
        rng.dirichlet([1, 1], size=2000).astype(np.float32),
        ["no", "yes"],
    )


def test_a_shifted_feature_stands_out() -> None:
    """Of a merged cohort only the shifted column has a small p-value and a large effect."""
    rng = np.random.default_rng(1)
    baseline = _baseline(rng)
    bodies = []
    for _ in range(5):
        window = Sketch(baseline)
        features = rng.normal(size=(300, 3)).astype(np.float32)
        features[:, 1] += 1.0
        window.update(features, rng.dirichlet([1, 1], size=300).astype(np.float32))
        bodies.append(encode_sketch(window))
    merged = merge(baseline, [*bodies, b"\x01 not a sketch"])
    found = {column.name: column for column in drift.distances(merged.sketch)}
    assert (merged.windows, merged.unreadable, merged.sketch.rows) == (5, 1, 1500)
    assert found["x[1]"].p < 1e-12
    assert found["x[1]"].psi > 0.5
    assert min(found["x[0]"].p, found["x[2]"].p, found["class"].p) > 1e-4
    assert found["x[0]"].n == 1500
    assert found["x[0]"].is_enough
    assert [name for name, each in found.items() if each.is_rejected] == ["x[1]"]
    assert found["x[1]"].hellinger > 0.2 > 4 * found["x[0]"].hellinger
    moved = {name: each.wasserstein for name, each in found.items()}
    # Rows above the last edge are taken to lie at the largest value, so it comes out too large.
    assert moved["x[1]"] == pytest.approx(1.0, abs=0.3)
    assert moved["x[0]"] == pytest.approx(0.0, abs=0.1)
    assert moved["class"] is None
