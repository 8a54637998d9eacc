"""Our statistics against what other libraries said on real data; see scripts/oracles.

Tolerances: 1e-9 relative for the same definition over the same bins, 1e-12 for fairlearn's rates,
.02 for the accuracy that NannyML estimates, which calibrates in another way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_bundles.sketches import (
    baseline,
    distances,
    fairness,
    intervals,
    performance,
    significance,
    special,
)
from firmware_bundles.sketches.outcomes import Outcomes
from firmware_bundles.sketches.sketch import Sketch

VECTORS = Path(__file__).parents[1] / "vectors"
EXACT = 1e-9


def _vectors(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return found


LAWS = _vectors("laws")
WINDOWS = [*LAWS["windows"], *_vectors("river_streams")["windows"]]


def test_laws_agree_with_scipy() -> None:
    """Noncentral chi-square, its inverse, the binomial's tail and bounds are scipy's."""
    for x, df, nc, expected in LAWS["ncx2_sf"]:
        assert special.ncx2_sf(x, df, nc) == pytest.approx(expected, rel=EXACT)
    for tail, df, expected in LAWS["chi2_isf"]:
        assert special.chi2_isf(tail, df) == pytest.approx(expected, rel=EXACT)
    for k, n, rate, expected in LAWS["binomial_tail"]:
        assert special.binomial_tail(k, n, rate) == pytest.approx(expected, rel=EXACT)
    for k, n, alpha, expected in LAWS["rate_bound"]:
        assert special.rate_bound(k, n, alpha) == pytest.approx(expected, rel=EXACT)


def test_intervals_agree_with_scipy() -> None:
    """The interval of Wilson is scipy's, also without any or with all."""
    for k, n, low, high in LAWS["wilson"]:
        rate = intervals.wilson(k, n)
        assert (rate.low, rate.high) == pytest.approx((low, high), rel=EXACT, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1, 0.3])
def test_rejections_are_those_of_scipys_adjusted_p_values(alpha: float) -> None:
    """Benjamini and Hochberg reject what scipy adjusts to at most alpha."""
    rejected = significance.benjamini_hochberg(np.array(LAWS["p"]), alpha)
    assert rejected.tolist() == (np.array(LAWS["benjamini_hochberg"]) <= alpha).tolist()


@pytest.mark.parametrize("pair", WINDOWS, ids=lambda pair: f"{pair['data']}-{pair['column']}")
def test_distances_agree_with_scipy_on_real_data(pair: dict[str, Any]) -> None:
    """Digits, wine, breast_cancer and river's streams give scipy's distances over the same bins."""
    c, r, places = np.array(pair["c"]), np.array(pair["r"]), np.array(pair["places"])
    assert distances.jensen_shannon(c, r) == pytest.approx(pair["js"], rel=EXACT, abs=1e-12)
    assert distances.hellinger(c, r) == pytest.approx(pair["hellinger"], rel=EXACT, abs=1e-12)
    assert distances.wasserstein(c, r, places) == pytest.approx(pair["wasserstein"], rel=EXACT)
    assert distances.ks_distance(c, r) == pytest.approx(pair["ks"], abs=1e-12)
    if pair["chi2_p"] is not None and (c + r > 0).all():
        assert significance.chi2_p(c, r) == pytest.approx(pair["chi2_p"], rel=1e-7)


@pytest.mark.parametrize("pair", WINDOWS[:8], ids=lambda pair: f"{pair['data']}-{pair['column']}")
def test_rows_lie_in_the_middle_of_their_bins(pair: dict[str, Any]) -> None:
    """Places of a Wasserstein distance follow from the edges and the extremes of both sides."""
    found = distances.places_of(tuple(pair["edges"]), pair["lowest"], pair["highest"])
    assert found.tolist() == pytest.approx(pair["places"])


@pytest.mark.parametrize("pair", _vectors("evidently_psi")["windows"])
def test_distances_agree_with_evidentlys_definitions(pair: dict[str, Any]) -> None:
    """PSI with its floor, Jensen-Shannon and Hellinger distance are Evidently's."""
    used = np.array(pair["c"]) + np.array(pair["r"]) > 0
    c, r = np.array(pair["c"])[used], np.array(pair["r"])[used]
    assert distances.psi(c, r) == pytest.approx(pair["psi"], rel=EXACT)
    assert distances.jensen_shannon(c, r) == pytest.approx(pair["js"], rel=EXACT)
    assert distances.hellinger(c, r) == pytest.approx(pair["hellinger"], rel=1e-6, abs=1e-7)


def test_gaps_are_fairlearns() -> None:
    """Differences and ratio between segments are fairlearn's to the last digits."""
    said = _vectors("fairlearn_gaps")
    outcomes = Outcomes(3, 2)
    outcomes.update(*(np.array(said[name]) for name in ("segments", "labels", "predictions")))
    found = fairness.fairness(outcomes, ("low", "middle", "high"), favourable=1, rows_min=10)
    parity = found.demographic_parity
    assert parity.difference == pytest.approx(said["demographic_parity"], abs=1e-12)
    assert parity.ratio == pytest.approx(said["demographic_parity_ratio"], abs=1e-12)
    assert found.equal_opportunity.difference == pytest.approx(said["equal_opportunity"], abs=1e-12)
    assert found.equalised_odds == pytest.approx(said["equalised_odds"], abs=1e-12)
    assert parity.low <= parity.difference <= parity.high


def test_label_free_accuracy_is_near_nannymls() -> None:
    """The estimate of 20 bins lies within .02 of NannyML's CBPE, with and without noise."""
    said = _vectors("nannyml_cbpe")
    facts = _calibrated(said["reference"])
    for window in said["windows"]:
        sketch = Sketch(facts)
        scores = _scores(window["chance"])
        sketch.update(np.zeros((len(scores), 1), dtype=np.float32), scores)
        found = performance.label_free(sketch, is_drifting=window["noise"] > 0)
        assert found is not None
        assert found.rows == len(scores)
        assert found.accuracy == pytest.approx(window["accuracy"], abs=0.02)


def _calibrated(reference: dict[str, Any]) -> baseline.Baseline:
    scores = _scores(reference["chance"])
    rows = np.zeros((len(scores), 1), dtype=np.float32)
    truth = np.array(reference["truth"])
    return baseline.make({"x": rows}, scores, ("benign", "malignant"), truth=truth)


def _scores(chance: list[float]) -> np.typing.NDArray[np.float32]:
    positive = np.array(chance, dtype=np.float32)
    return np.stack((1 - positive, positive), axis=1)
