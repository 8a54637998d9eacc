"""False stops and power of the test between arms, next to the rules that other systems have.

Simulated: each device has its own error rate, Beta with a mean of 1 % and an intraclass correlation
of .02, kept from the day before; two requests a minute; a look each minute for four hours; harm
multiplies every device's rate. The decision is the code that gates run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from control_plane.rollouts.statistics import Arm, compare
from support import benchmark
from support.benchmark import Limit, Report

ALPHA: Final = 0.05
_RATE: Final = 0.01
_RHO: Final = 0.02
_A_MINUTE: Final = 2
_HISTORY: Final = 24 * 60 * _A_MINUTE
_LOOKS: Final = 240
_SIZES: Final = (10, 50, 200)
_HARM: Final = 3.0
_RUNS_AT_ONCE: Final = 50

Floats = NDArray[np.float64]
_NEVER: Final = math.inf


class Sums(NamedTuple):
    """One arm of every run: sums over its devices, [run] before and [run, look] since."""

    devices: int
    x: Floats
    xx: Floats
    z: Floats
    zz: Floats
    xz: Floats
    errors: NDArray[np.int64]

    def arm(self, run: int, look: int, *, has_history: bool) -> Arm:
        """Return what the gate sees of one run at one look."""
        since = float(self.z[run, look]), float(self.zz[run, look])
        observations = self.devices * _A_MINUTE * (look + 1)
        if not has_history:
            return Arm(self.devices, observations, z=since[0], zz=since[1])
        x, xx, xz = float(self.x[run]), float(self.xx[run]), float(self.xz[run, look])
        return Arm(self.devices, observations, x=x, z=since[0], xx=xx, xz=xz, zz=since[1])


def _simulate(devices: int, harm: float, runs: int, generator: np.random.Generator) -> Sums:
    parts = [_some(devices, harm, generator) for _ in range(runs // _RUNS_AT_ONCE)]
    return Sums(devices, *(np.concatenate(field) for field in zip(*parts, strict=True)))


def _some(devices: int, harm: float, generator: np.random.Generator) -> tuple[NDArray[Any], ...]:
    spread = 1 / _RHO - 1
    size = (_RUNS_AT_ONCE, devices)
    rates = generator.beta(_RATE * spread, (1 - _RATE) * spread, size)
    x = generator.binomial(_HISTORY, rates) / _HISTORY
    worse = np.minimum(rates * harm, 1.0)[:, None, :]
    minutes = generator.binomial(_A_MINUTE, worse, (_RUNS_AT_ONCE, _LOOKS, devices))
    counts = minutes.cumsum(axis=1)
    z = counts / (_A_MINUTE * np.arange(1, _LOOKS + 1))[None, :, None]
    xz = np.einsum("rd,rtd->rt", x, z)
    zz = np.einsum("rtd,rtd->rt", z, z)
    return x.sum(axis=1), (x * x).sum(axis=1), z.sum(axis=2), zz, xz, counts.sum(axis=2)


def _stops(candidate: Sums, control: Sums, *, has_history: bool) -> list[float]:
    """Return the minute at which the gate stops each run."""
    return [
        next(_harms(candidate, control, run, has_history=has_history), _NEVER)
        for run in range(len(candidate.x))
    ]


def _harms(candidate: Sums, control: Sums, run: int, *, has_history: bool) -> Iterator[float]:
    for look in range(_LOOKS):
        arms = (each.arm(run, look, has_history=has_history) for each in (candidate, control))
        difference = compare(*arms)
        if difference is not None and difference.is_harm(ALPHA):
            yield look + 1.0


Rule = Callable[[Sums, Sums], NDArray[np.bool_]]


def _fixed_threshold(candidate: Sums, _: Sums) -> NDArray[np.bool_]:
    """AWS IoT Jobs: stop above 2 % of all, from 100 on."""
    seen = _seen(candidate)
    return (candidate.errors > 0.02 * seen) & (seen >= 100)


def _strikes(candidate: Sums, _: Sums) -> NDArray[np.bool_]:
    """Flagger: stop after five minutes with a success rate below 99 %."""
    minute = np.diff(candidate.errors, axis=1, prepend=0)
    return (minute > 0.01 * _A_MINUTE * candidate.devices).cumsum(axis=1) >= 5


def _z_test(candidate: Sums, control: Sums) -> NDArray[np.bool_]:
    """The two-sample test of proportions at 5 %, two-sided, at each look."""
    seen = _seen(candidate)
    pooled = (candidate.errors + control.errors) / (2 * seen)
    error = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * 2 / seen)
    excess = (candidate.errors - control.errors) / seen
    return (excess > 1.959964 * error) & (seen >= 100)


def _seen(arm: Sums) -> NDArray[np.int64]:
    return arm.devices * _A_MINUTE * np.arange(1, _LOOKS + 1)


_PEERS: Final[dict[str, Rule]] = {
    "fixed threshold, 2 % of all": _fixed_threshold,
    "five strikes below 99 % a minute": _strikes,
    "z-test at each look": _z_test,
}


def _first(stops: NDArray[np.bool_]) -> list[float]:
    minutes = np.where(stops.any(axis=1), stops.argmax(axis=1) + 1.0, _NEVER)
    return [float(minute) for minute in minutes]


def _share(minutes: list[float]) -> float:
    return sum(minute < _NEVER for minute in minutes) / len(minutes)


def measure(runs: int = 1_000) -> Report:
    """Simulate `runs` rollouts of a like and of a harmful candidate for each size of arm."""
    generator = np.random.default_rng(20261121)
    limits: list[Limit] = []
    figures: dict[str, object] = {"runs of each": runs}
    for devices in _SIZES:
        control, like, worse = (
            _simulate(devices, harm, runs, generator) for harm in (1.0, 1.0, _HARM)
        )
        where = f"{devices} an arm"
        false = _share(_stops(like, control, has_history=True))
        what = f"{where}: false stops"
        limits.append(Limit(what=what, value=false, unit="", limit=ALPHA))
        found = _stops(worse, control, has_history=True)
        limits += _power(found) if devices == 50 else []
        figures[f"{where}: ours"] = _told(false, found)
        raw = [_stops(each, control, has_history=False) for each in (like, worse)]
        figures[f"{where}: ours without history"] = _told(_share(raw[0]), raw[1])
        for name, rule in _PEERS.items():
            stops = [_first(rule(each, control)) for each in (like, worse)]
            figures[f"{where}: {name}"] = _told(_share(stops[0]), stops[1])
    return Report(limits=limits, figures=figures)


def _power(found: list[float]) -> list[Limit]:
    what = "50 an arm, 1 % to 3 %"
    median = float(np.median(found))
    return [
        Limit(what=f"{what}: found", value=_share(found), unit="", limit=0.95, bound=">="),
        Limit(what=f"{what}: median of all runs", value=median, unit="min", limit=15.0),
    ]


def _told(false: float, found: list[float]) -> str:
    times = [minute for minute in found if minute < _NEVER]
    median = f"{np.median(times):.0f} min" if times else "-"
    return f"false stops {false:.3f}; 1 % to 3 % found {_share(found):.3f}, median {median}"


if __name__ == "__main__":
    sys.exit(benchmark.main("canary", measure))
