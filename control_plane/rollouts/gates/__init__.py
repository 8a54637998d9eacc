"""The gates: rules over what the fleet says, each with a verdict, its numbers and a sentence. Pure.

Each is a module; what a verdict leads to is the planner's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from control_plane.rollouts.gates import (
    agreement,
    crashes,
    drift,
    energy,
    errors,
    installs,
    label_errors,
    label_free,
    latency,
    metrics,
    shadow_pairs,
    traffic,
    values,
)
from control_plane.rollouts.model import Finding, FleetView, PhaseState, Rollout, Verdict

INSTALLS: Final = installs.NAME
_Judge = Callable[[Any, Rollout, FleetView], Finding]
_JUDGES: Final[dict[str, _Judge]] = {
    label_errors.NAME: label_errors.judge,
    label_free.NAME: label_free.judge,
    shadow_pairs.NAME: shadow_pairs.judge,
    agreement.NAME: agreement.judge,
    latency.NAME: latency.judge,
    errors.NAME: errors.judge,
    crashes.NAME: crashes.judge,
    energy.NAME: energy.judge,
    drift.NAME: drift.judge,
}
"""Gates of which a phase has one at most, under the names that they have in its file."""


def judge(rollout: Rollout, view: FleetView, now: float) -> tuple[Finding, ...]:
    """Return what every gate of the rollout finds at `now` (Unix seconds)."""
    gates = rollout.gates
    findings = [installs.judge(gates.installs, rollout, view, now)]
    single = ((name, getattr(gates, name)) for name in _JUDGES)
    findings += [_JUDGES[name](gate, rollout, view) for name, gate in single if gate is not None]
    findings += [values.judge(gate, rollout, view) for gate in gates.values]
    if gates.traffic is not None:
        findings.append(traffic.judge(gates.traffic, rollout, view))
    findings += [metrics.judge(gate, rollout, view, now) for gate in gates.metrics]
    return tuple(_timed(finding, rollout, view, now) for finding in findings)


def deadline_s(rollout: Rollout, finding: Finding) -> float:
    """Return how long after the soak began a finding that does not pass may be waited for."""
    gates = rollout.gates
    single: dict[str, object] = {name: getattr(gates, name) for name in _JUDGES}
    named = {values.name(gate): gate for gate in gates.values}
    asked = {metrics.name(gate): gate for gate in gates.metrics}
    gate = (single | named | asked).get(finding.gate)
    return float(getattr(gate, "deadline_s", 0.0))


def _timed(finding: Finding, rollout: Rollout, view: FleetView, now: float) -> Finding:
    """Add how long a gate that cannot say anything yet may still wait."""
    standing, phase = rollout.standing, rollout.phase
    if finding.verdict is not Verdict.INCONCLUSIVE:
        return finding
    own = view.phases[standing.phase]
    if standing.phase_state is PhaseState.SOAKING:
        ends = standing.since + max(phase.soak_s, deadline_s(rollout, finding))
    elif own.offered and not own.planned and finding.gate == INSTALLS:
        ends = installs.begun(rollout, view) + phase.timeout_s
    else:
        return finding
    return msgspec.structs.replace(finding, left_s=max(ends - now, 0.0))
