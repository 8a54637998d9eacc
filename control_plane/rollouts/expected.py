"""What the gates between arms will look at, and how devices are assumed to differ in it. Pure.

Before a rollout starts nothing of it is measured: these are the assumptions under which checks and
simulations say what a gate could find. `sd` is what is left between devices alike, after the
comparison with the day before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from control_plane.rollouts.gate_specs import Gates
from control_plane.rollouts.gates import crashes, drift, energy, errors, latency
from control_plane.rollouts.phase_specs import PhaseSpec
from control_plane.rollouts.statistics import TAU_LOG, TAU_SHARE
from control_plane.telemetry.latency_bins import WIDTH_LOG

COMPARED: Final = ("latency", "errors", "crashes", "drift", "energy")
"""The gates of which this tells, as the rollout file names them."""
LOG_SD: Final = 0.1
"""Latency and power of devices alike differ by about a tenth."""
FAILED_MEAN: Final = 0.001
FAILED_SD: Final = 0.002
CHANGED_SHARE: Final = 0.05
DEATHS_PER_DAY: Final = 0.1
_DAY_MINUTES: Final = 1_440.0
_FAILED_EXCESS: Final = 0.01
_DEATHS_EXCESS: Final = 1.0
_CHANGED_EXCESS: Final = 0.3
_LOG_EXCESS: Final = 0.1


class Quantity(NamedTuple):
    """One quantity that a gate compares by device, in the unit of its evidence.

    The gate must not miss an excess of `wanted`; `words` tells one. `evidence` names the field of
    `Evidence`. A device has about `mean`, or is 1 with this chance where it `is_bit`.
    """

    gate: str
    evidence: str
    margin: float
    wanted: float
    tau: float
    mean: float
    sd: float
    words: Callable[[float], str]
    has_limit: bool
    is_bit: bool = False


def quantities(gates: Gates, phase: PhaseSpec) -> tuple[Quantity, ...]:
    """Return what the gates of a phase compare."""
    found = [_latency(gates), _errors(gates), _crashes(gates, phase), _drift(gates), _energy(gates)]
    return tuple(each for each in found if each is not None)


def _latency(gates: Gates) -> Quantity | None:
    gate = gates.latency
    if gate is None:
        return None
    granted = 0.0 if gate.percentile is None else WIDTH_LOG
    limit = gate.latency_ms_max
    return _log(latency.NAME, "latency", gate.increase_max, granted, limit, math.log(10_000.0))


def _energy(gates: Gates) -> Quantity | None:
    gate = gates.energy
    if gate is None:
        return None
    return _log(energy.NAME, "watts", gate.increase_max, 0.0, gate.watts_max, math.log(3.0))


def _log(
    name: str, evidence: str, increase: float, granted: float, limit: float | None, mean: float
) -> Quantity:
    margin = math.log1p(increase) + granted
    return Quantity(
        gate=name,
        evidence=evidence,
        margin=margin,
        wanted=max(math.log1p(2 * increase), math.log1p(increase) + _LOG_EXCESS) + granted,
        tau=TAU_LOG,
        mean=mean,
        sd=LOG_SD,
        words=lambda factor: f"{math.expm1(factor):+.1%}",
        has_limit=limit is not None,
    )


def _errors(gates: Gates) -> Quantity | None:
    gate = gates.errors
    if gate is None:
        return None
    return Quantity(
        gate=errors.NAME,
        evidence="failed",
        margin=gate.margin,
        wanted=max(2 * gate.margin, gate.margin + _FAILED_EXCESS),
        tau=TAU_SHARE,
        mean=FAILED_MEAN,
        sd=FAILED_SD,
        words=lambda share: f"{share:+.2%}",
        has_limit=gate.rate_max is not None,
    )


def _crashes(gates: Gates, phase: PhaseSpec) -> Quantity | None:
    gate = gates.crashes
    if gate is None:
        return None
    mean, minutes = DEATHS_PER_DAY / _DAY_MINUTES, max(phase.soak_s / 60.0, 1.0)
    excess = max(2 * gate.margin, gate.margin + _DEATHS_EXCESS)
    return Quantity(
        gate=crashes.NAME,
        evidence="deaths",
        margin=gate.margin / _DAY_MINUTES,
        wanted=excess / _DAY_MINUTES,
        tau=crashes.TAU,
        mean=mean,
        # Deaths are rare and independent (Poisson), counted over the soak.
        sd=math.sqrt(mean / minutes),
        words=lambda rate: f"{rate * _DAY_MINUTES:+.3g} deaths a day",
        has_limit=gate.crashes_max is not None,
    )


def _drift(gates: Gates) -> Quantity | None:
    gate = gates.drift
    if gate is None:
        return None
    return Quantity(
        gate=drift.NAME,
        evidence="changed",
        margin=gate.margin,
        wanted=min(max(2 * gate.margin, gate.margin + _CHANGED_EXCESS), 1.0),
        tau=drift.TAU,
        mean=CHANGED_SHARE,
        sd=math.sqrt(CHANGED_SHARE * (1 - CHANGED_SHARE)),
        words=lambda share: f"{share * 100:+.0f} points of devices that changed",
        has_limit=gate.changed_share_max is not None,
        is_bit=True,
    )
