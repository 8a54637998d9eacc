"""Tail functions of the laws that the tests use, by series and continued fractions, without scipy.

Sources: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.4 (chi-square), 26.4.25
(noncentral chi-square), 26.5.8 (incomplete beta); Marsaglia, Tsang and Wang 2003 (Kolmogorov).
Stored values of scipy are compared in tests/unit/test_special.py.
"""

from __future__ import annotations

from functools import lru_cache
from math import erfc, exp, lgamma, log, log1p, pi, sqrt
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_TERMS_MAX: Final = 100
_TERM_MIN: Final = 1e-18
_BISECTIONS: Final = 80
_FRACTION_TERMS_MAX: Final = 5_000
_FRACTION_PRECISION: Final = 1e-15
_TINY: Final = 1e-300


def chi2_sf(x: ArrayLike, df: int) -> Floats:
    """P(chi-square with `df` degrees of freedom > x), by the finite series for whole `df`."""
    half = np.maximum(np.asarray(x, dtype=np.float64), 0.0) / 2
    tail = _first_tail(half, df)
    for a in np.arange(0.5 if df % 2 else 1.0, df / 2):
        tail = tail + _step(half, float(a))
    return np.minimum(1.0, tail)


def ncx2_sf(x: ArrayLike, df: int, nc: float) -> Floats:
    """P(noncentral chi-square > x): a Poisson(nc / 2) mixture of chi-squares of df + 2j."""
    mean = nc / 2
    if mean <= 0:
        return chi2_sf(x, df)
    half = np.maximum(np.asarray(x, dtype=np.float64), 0.0) / 2
    tail = chi2_sf(2 * half, df)
    total = np.zeros_like(half)
    for j in range(int(mean + 12 * sqrt(mean + 1) + 30)):
        total = total + exp(j * log(mean) - mean - lgamma(j + 1)) * tail
        tail = tail + _step(half, df / 2 + j)
    return np.minimum(1.0, total)


@lru_cache(maxsize=1024)
def chi2_isf(p: float, df: int) -> float:
    """The x with chi2_sf(x, df) = p, by bisection."""
    low, high = 0.0, 10.0 * df + 100.0
    while chi2_sf(high, df) > p:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if chi2_sf(middle, df) > p else (low, middle)
    return high


def kolmogorov_sf(z: float) -> float:
    """P(K > z) of the Kolmogorov distribution: the series that converges fast on each side of 1."""
    if z <= 0:
        return 1.0
    if z < 1:
        exponents = (-((2 * k - 1) ** 2) * pi**2 / (8 * z * z) for k in range(1, _TERMS_MAX))
        return 1 - sqrt(2 * pi) / z * sum(map(exp, exponents))
    total = 0.0
    for k in range(1, _TERMS_MAX):
        term = exp(-2 * k * k * z * z)
        if term < _TERM_MIN:
            break
        total += term if k % 2 else -term
    return 2 * total


def log_beta(a: float, b: float) -> float:
    """Return ln B(a, b)."""
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def binomial_tail(k: int, n: int, rate: float) -> float:
    """P(Bin(n, rate) >= k), as the regularized incomplete beta I_rate(k, n - k + 1)."""
    if k <= 0:
        return 1.0
    if k > n or rate <= 0:
        return 0.0
    return 1.0 if rate >= 1 else _beta_share(float(k), float(n - k + 1), rate)


@lru_cache(maxsize=65_536)
def rate_bound(k: int, n: int, alpha: float) -> float:
    """Upper bound of a rate of which k of n were seen, by bisection (Clopper and Pearson 1934)."""
    if k >= n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(_BISECTIONS // 2):
        middle = (low + high) / 2
        is_likely = 1 - binomial_tail(k + 1, n, middle) > alpha
        low, high = (middle, high) if is_likely else (low, middle)
    return high


def _first_tail(half: Floats, df: int) -> Floats:
    if df % 2 == 0:
        return np.exp(-half)
    roots = np.sqrt(half)
    return np.array([erfc(root) for root in roots.ravel()]).reshape(roots.shape)


def _step(half: Floats, a: float) -> Floats:
    """What two more degrees of freedom add: h^a e^-h / Gamma(a + 1)."""
    with np.errstate(divide="ignore"):
        return np.exp(a * np.log(half) - half - lgamma(a + 1))


def _beta_share(a: float, b: float, x: float) -> float:
    front = exp(a * log(x) + b * log1p(-x) - log_beta(a, b))
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _beta_fraction(a, b, x) / a)
    return max(0.0, 1 - front * _beta_fraction(b, a, 1 - x) / b)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta, by Lentz's method."""
    numerator = 1.0
    denominator = 1 / _apart(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, _FRACTION_TERMS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for factor in (even, odd):
            denominator = 1 / _apart(1 + factor * denominator)
            numerator = _apart(1 + factor / numerator)
            value *= numerator * denominator
        if abs(numerator * denominator - 1) < _FRACTION_PRECISION:
            break
    return value


def _apart(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
