"""Alarms of the shipped code on simulated fleets, next to PSI > 0.1, PSI > 0.2 and BH at .01.

Every device has 66 features of ten bins, a constant offset (sd .1) in each, a reference of its own
after installation (5,000 rows, with 1,000 for comparison), and windows of 300 counted rows that
span whole cycles. Rows are made as they are after the stride that the stream needs (20 at an
autocorrelation of .9: .9 ** 20 is left). The peers judge the same windows against the same
reference; a rule that would compare with the fleet's shared baseline rings on every offset.
Peers judge a tenth of the devices.
`SHOAL_BENCH_DRIFT_DEVICES` (200) and `SHOAL_BENCH_DRIFT_WINDOWS` (50) set the size.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from firmware_bundles.sketches import baseline, watch
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.distances import psi
from firmware_bundles.sketches.significance import benjamini_hochberg, combined_p
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.sketches.watch import Settings, Span, State, Watch
from support import benchmark
from support.benchmark import Limit, Report

FEATURES, ROWS, CYCLE_S = 66, 300, 86_400.0
OFFSET_SD, CYCLE_SD, SHIFT_SD, RAMP_SD, RAMP_WINDOWS = 0.1, 0.3, 0.3, 0.5, 30
STRIDE = 20
PEERS = ("PSI > 0.1", "PSI > 0.2", "BH .01")
FOUND_WINDOWS = 10

Reals = NDArray[np.float64]
Shift = Callable[[int], float]


class Stream(NamedTuple):
    """How a device's rows come: a daily cycle of this amplitude, and this autocorrelation."""

    cycle_sd: float = 0.0
    phi: float = 0.0


class Heard(NamedTuple):
    """At which windows each rule rang for a device; `first` is what ours named first."""

    ours: list[int]
    peers: dict[str, list[int]]
    first: str | None


class Device:
    """One simulated device: its offsets, and its stream of counted rows."""

    def __init__(self, seed: int, facts: Baseline, stream: Stream) -> None:
        self._random = np.random.default_rng(seed)
        self._facts = facts
        self._stream = stream
        self._offset = self._random.normal(0, OFFSET_SD, FEATURES)
        self._phase = self._random.uniform(0, 2 * np.pi, FEATURES)
        self._left = stream.phi**STRIDE
        self._state = self._random.normal(size=FEATURES)

    def window(self, rows: int, shift: float = 0.0) -> Sketch:
        """Return the sketch of one day of so many counted rows; feature 0 shifted."""
        values = self._noise(rows) + self._offset
        if self._stream.cycle_sd:
            turn = 2 * np.pi * np.arange(rows)[:, None] / rows
            values += self._stream.cycle_sd * np.sqrt(2) * np.sin(turn + self._phase)
        values[:, 0] += shift
        counted = Sketch(self._facts)
        counted.update(values.astype(np.float32), np.zeros((rows, 0), dtype=np.float32))
        return counted

    def _noise(self, rows: int) -> Reals:
        noise = self._random.standard_normal((rows, FEATURES))
        if not self._left:
            return noise
        fresh = np.sqrt(1 - self._left**2)
        for row in noise:
            self._state = self._left * self._state + fresh * row
            row[:] = self._state
        return noise


def _facts() -> Baseline:
    held_out = np.random.default_rng(1).normal(size=(20_000, FEATURES)).astype(np.float32)
    made = baseline.make({"x": held_out}, np.zeros((20_000, 0), dtype=np.float32), ())
    return msgspec.structs.replace(made, cycle_s=CYCLE_S)


def _hear(device: Device, windows: int, shift: Shift, reference_rows: int, *, peers: bool) -> Heard:
    days = -(-reference_rows // 1_000)
    settings = Settings(reference_rows=reference_rows)
    state, own, clock = Watch(), None, 0.0
    for _ in range(days):
        part = device.window(reference_rows // days)
        own = part if own is None else _merged(own, part)
        state, _verdict = watch.advance(state, Span(part, clock, clock + CYCLE_S), settings)
        clock += CYCLE_S
    assert own is not None
    assert state.reference is not None
    heard = Heard([], {name: [] for name in PEERS}, None)
    for number in range(1, windows + 1):
        sketch = device.window(ROWS, shift(number))
        state, verdict = watch.advance(state, Span(sketch, clock, clock + CYCLE_S), settings)
        clock += CYCLE_S
        if verdict.state is State.CHANGED:
            heard.ours.append(number)
            heard = heard._replace(first=heard.first or verdict.findings[0].column)
            if shift is not _steady and not peers:
                break
        if peers:
            for name in _ringing(sketch, own):
                heard.peers[name].append(number)
    return heard


def _merged(own: Sketch, part: Sketch) -> Sketch:
    own.merge(part)
    return own


def _ringing(sketch: Sketch, own: Sketch) -> list[str]:
    pairs = [(sketch.counts_of(at), own.counts_of(at)) for at in range(FEATURES)]
    index = max(psi(c, r) for c, r in pairs)
    rejected = benjamini_hochberg(np.array([combined_p(c, r) for c, r in pairs])).any()
    return [
        name
        for name, rings in zip(PEERS, (index > 0.1, index > 0.2, rejected), strict=True)
        if rings
    ]


def _steady(_number: int) -> float:
    return 0.0


def _stepped(_number: int) -> float:
    return SHIFT_SD


def _ramped(number: int) -> float:
    return RAMP_SD * min(1.0, number / RAMP_WINDOWS)


STREAMS = {
    "offsets": Stream(),
    "offsets, daily cycle": Stream(cycle_sd=CYCLE_SD),
    "offsets, daily cycle, autocorrelation .6": Stream(cycle_sd=CYCLE_SD, phi=0.6),
    "offsets, daily cycle, autocorrelation .9": Stream(cycle_sd=CYCLE_SD, phi=0.9),
}


def _false(facts: Baseline, devices: int, windows: int) -> Report:
    figures: dict[str, object] = {}
    alarms = 0
    peer_devices = max(1, devices // 10)
    for kind, (name, stream) in enumerate(STREAMS.items()):
        heard = [
            _hear(
                Device(1_000 * kind + seed, facts, stream),
                windows, _steady, watch.REFERENCE_ROWS, peers=seed < peer_devices,
            )
            for seed in range(devices)
        ]  # fmt: skip
        here = sum(len(one.ours) for one in heard)
        alarms += here
        rates = [
            f"{peer} {sum(len(one.peers[peer]) for one in heard) / peer_devices / windows:.3f}"
            for peer in PEERS
        ]
        figures[f"false alarms, {name}"] = (
            f"{here} in {devices * windows:,} device-windows; a window, peers: {', '.join(rates)}"
        )
    total = len(STREAMS) * devices * windows
    limit = Limit(
        what="false alarms in 10,000 device-windows, steady fleets",
        value=alarms / total * 10_000, unit="", limit=1.0,
    )  # fmt: skip
    return Report(limits=[limit], figures=figures)


def _found(facts: Baseline, devices: int) -> Report:
    figures: dict[str, object] = {}
    shares = {}
    cases: dict[str, tuple[Shift, int, int]] = {
        "step .3 sd, m = 5,000": (_stepped, 5_000, 30),
        "step .3 sd, m = 1,000": (_stepped, 1_000, 30),
        "ramp to .5 sd in 30 windows, m = 5,000": (_ramped, 5_000, 40),
    }
    stream, peer_devices = Stream(cycle_sd=CYCLE_SD, phi=0.9), max(1, devices // 10)
    for kind, (name, (shift, reference_rows, windows)) in enumerate(cases.items()):
        heard = [
            _hear(
                Device(50_000 + 1_000 * kind + seed, facts, stream),
                windows, shift, reference_rows, peers=seed < peer_devices,
            )
            for seed in range(devices)
        ]  # fmt: skip
        firsts = [one.ours[0] for one in heard if one.ours]
        shares[name] = sum(first <= FOUND_WINDOWS for first in firsts) / devices
        right = sum(one.first == "x[0]" for one in heard)
        figures[f"found, {name}"] = (
            f"{len(firsts)} of {devices}, {shares[name]:.3f} within {FOUND_WINDOWS} windows, "
            f"{_delays(firsts)}, the right feature named first {right}"
        )
        for peer in PEERS:
            rang = [one.peers[peer][0] for one in heard if one.peers[peer]]
            figures[f"found, {name}: {peer}"] = f"{len(rang)} of {peer_devices}, {_delays(rang)}"
    limit = Limit(
        what="share of devices with +.3 sd found in 10 windows",
        value=shares["step .3 sd, m = 5,000"], unit="", limit=0.95, bound=">=",
    )  # fmt: skip
    return Report(limits=[limit], figures=figures)


def _delays(firsts: list[int]) -> str:
    return f"median window {np.median(firsts):.0f}, last {max(firsts)}" if firsts else "never"


def measure() -> Report:
    """Listen to steady fleets, then to changed ones."""
    devices = int(os.environ.get("SHOAL_BENCH_DRIFT_DEVICES", "200"))
    windows = int(os.environ.get("SHOAL_BENCH_DRIFT_WINDOWS", "50"))
    facts = _facts()
    steady, changed = _false(facts, devices, windows), _found(facts, devices)
    return Report(
        limits=[*steady.limits, *changed.limits], figures={**steady.figures, **changed.figures}
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("drift", measure))
