"""How far apart rows of a stream must be to count as independent: the stride of a baseline. Pure.

Tests take rows for independent; neighbours in a stream are not, and then everything looks like
drift. Every k-th row is counted, where k is the lag from which autocorrelation stays small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CORRELATION_MAX: Final = 0.1
"""With what is left at .9 ** 22, tests kept their rates in simulation; see the drift benchmark."""
STRIDE_MAX: Final = 1_000
ROWS_MIN: Final = 100
_NOISE: Final = 4.0  # standard errors of an autocorrelation without any
_LAGS_SHARE: Final = 10  # of the rows: longer lags are not known well enough
_PHASES: Final = 24


class Stride(NamedTuple):
    """Every `rows`-th row is far enough from the next, unless `is_bounded` cut the search short."""

    rows: int
    is_bounded: bool


def choose(streams: Sequence[Floats], phases: Sequence[Floats | None]) -> Stride:
    """Return the stride that suits all streams [rows, columns], each in order of time.

    `phases` place each stream's rows in the declared cycle, from 0 to 1: what repeats with it is no
    correlation. Streams of fewer than ROWS_MIN rows tell nothing; without others it is 1.
    """
    found = Stride(1, is_bounded=False)
    for stream, phase in zip(streams, phases, strict=True):
        if len(stream) >= ROWS_MIN:
            one = _of_stream(_without_cycle(stream, phase))
            found = Stride(max(found.rows, one.rows), found.is_bounded or one.is_bounded)
    return found


def autocorrelation(values: Floats, lags: int) -> Floats:
    """Return the autocorrelation [lags + 1, columns] of each column; 0 for one that is constant.

    By the Fourier transform (Wiener and Khinchin); missing values count as the mean.
    """
    known = np.where(np.isfinite(values), values, np.nan)
    with np.errstate(invalid="ignore"):
        mean = np.nan_to_num(np.nansum(known, axis=0) / np.isfinite(known).sum(axis=0))
    centred = np.nan_to_num(known - mean)
    size = 1 << (2 * len(values) - 1).bit_length()
    spectrum = np.fft.rfft(centred, size, axis=0)
    products = np.fft.irfft(np.abs(spectrum) ** 2, size, axis=0)[: lags + 1]
    variance = products[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = np.where(variance > _TINY * len(values), products / variance, 0.0)
    return shares


_TINY: Final = 1e-20


def _of_stream(values: Floats) -> Stride:
    lags = min(STRIDE_MAX, len(values) // _LAGS_SHARE)
    limit = max(CORRELATION_MAX, _NOISE / np.sqrt(len(values)))
    is_large = np.abs(autocorrelation(values, lags))[1:] > limit
    longest = max((_run(column) for column in is_large.T), default=0)
    return Stride(min(longest + 1, lags), is_bounded=longest >= lags)


def _run(is_large: NDArray[np.bool_]) -> int:
    """Return for how many lags from the first on the correlation is large."""
    small = np.flatnonzero(~is_large)
    return int(small[0]) if len(small) else len(is_large)


def _without_cycle(values: Floats, phase: Floats | None) -> Floats:
    """Take away the mean of each part of the cycle."""
    if phase is None:
        return values
    part = np.minimum((phase * _PHASES).astype(np.int64), _PHASES - 1)
    left = values.copy()
    for each in np.unique(part):
        left[part == each] -= np.nanmean(values[part == each], axis=0)
    return left
