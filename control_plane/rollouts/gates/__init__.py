"""The gates: rules over what the fleet says, each with a verdict, its numbers and a sentence. Pure.

Each is a module; what a verdict leads to is the planner's affair.
"""

from __future__ import annotations

from typing import Final

import msgspec

from control_plane.rollouts.gates import (
    agreement,
    crashes,
    drift,
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


def judge(rollout: Rollout, view: FleetView, now: float) -> tuple[Finding, ...]:
    """Return what every gate of the rollout finds at `now` (Unix seconds)."""
    gates = rollout.gates
    findings = [installs.judge(gates.installs, rollout, view, now)]
    if gates.label_errors is not None:
        findings.append(label_errors.judge(gates.label_errors, rollout, view))
    if gates.label_free_accuracy is not None:
        findings.append(label_free.judge(gates.label_free_accuracy, rollout, view))
    if gates.shadow_pairs is not None:
        findings.append(shadow_pairs.judge(gates.shadow_pairs, rollout, view))
    if gates.agreement is not None:
        findings.append(agreement.judge(gates.agreement, rollout, view))
    if gates.latency is not None:
        findings.append(latency.judge(gates.latency, rollout, view))
    if gates.errors is not None:
        findings.append(errors.judge(gates.errors, rollout, view))
    if gates.crashes is not None:
        findings.append(crashes.judge(gates.crashes, rollout, view))
    if gates.drift is not None:
        findings.append(drift.judge(gates.drift, rollout, view))
    findings += [values.judge(gate, rollout, view) for gate in gates.values]
    if gates.traffic is not None:
        findings.append(traffic.judge(gates.traffic, rollout, view))
    findings += [metrics.judge(gate, rollout, view, now) for gate in gates.metrics]
    return tuple(_timed(finding, rollout, view, now) for finding in findings)


def deadline_s(rollout: Rollout, finding: Finding) -> float:
    """Return how long after the soak began a finding that does not pass may be waited for."""
    gates = rollout.gates
    single: dict[str, object] = {
        label_errors.NAME: gates.label_errors,
        label_free.NAME: gates.label_free_accuracy,
        shadow_pairs.NAME: gates.shadow_pairs,
        agreement.NAME: gates.agreement,
        latency.NAME: gates.latency,
        errors.NAME: gates.errors,
        crashes.NAME: gates.crashes,
        drift.NAME: gates.drift,
    }
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
