"""The stride of a baseline follows from how long rows of the stream stay alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_bundles.sketches.stride import ROWS_MIN, STRIDE_MAX, autocorrelation, choose


def wandering(phi: float, rows: int = 20_000, columns: int = 3) -> NDArray[np.float64]:
    """An AR(1) stream."""
    noise = np.random.default_rng(7).normal(size=(rows, columns))
    values = np.zeros_like(noise)
    for row in range(1, rows):
        values[row] = phi * values[row - 1] + noise[row]
    return values


@pytest.mark.parametrize(("phi", "least", "most"), [(0.0, 1, 1), (0.6, 4, 8), (0.9, 16, 40)])
def test_the_stride_grows_with_the_memory_of_a_stream(phi: float, least: int, most: int) -> None:
    """About where phi ** k falls under a tenth; independent rows are all counted."""
    found = choose([wandering(phi)], [None])
    assert least <= found.rows <= most
    assert not found.is_bounded


def test_a_declared_cycle_is_no_correlation() -> None:
    """Day and night make neighbours alike for long; what is left beside them does not."""
    rows = 4_000
    phase = np.arange(rows) % 1_000 / 1_000
    noise = np.random.default_rng(3).normal(size=(rows, 1))
    stream = noise + 3 * np.sin(2 * np.pi * phase)[:, None]
    assert choose([stream], [None]).rows > 100
    assert choose([stream], [phase]).rows <= 2


def test_a_trend_is_told() -> None:
    """A stream that stays alike for longer than can be measured says so."""
    found = choose([np.linspace(0, 1, 2_000)[:, None]], [None])
    assert found.is_bounded
    assert found.rows <= STRIDE_MAX


def test_the_longest_memory_counts() -> None:
    """Streams and columns may differ; short ones and constants tell nothing."""
    short, flat = np.ones((ROWS_MIN - 1, 3)), np.ones((500, 3))
    one, other = wandering(0.9), wandering(0.0)
    assert choose([short, flat], [None, None]).rows == 1
    assert choose([other, one], [None, None]) == choose([one], [None])


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_autocorrelation_is_its_definition(rows: int, seed: int) -> None:
    """The transform gives what summing products gives; missing values count as the mean."""
    values = np.random.default_rng(seed).normal(size=(rows, 2))
    values[0, 1] = np.nan
    lags = rows // 2
    found = autocorrelation(values, lags)
    for at in range(2):
        column = values[:, at]
        centred = np.nan_to_num(column - np.nanmean(column))
        by_hand = [float(centred[: rows - lag] @ centred[lag:]) for lag in range(lags + 1)]
        assert found[:, at] == pytest.approx(np.array(by_hand) / (by_hand[0] or 1), abs=1e-9)
