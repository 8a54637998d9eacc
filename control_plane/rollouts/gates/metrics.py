"""The gates on metrics that others keep: a query's answer within its limits. Pure.

Who asks the server stands in `prometheus`; an answer that is missing, or too old, says nothing.
"""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.gate_specs import MetricGate
from control_plane.rollouts.gates.question import told
from control_plane.rollouts.model import Finding, FleetView, Rollout, Verdict

_PERIODS_MAX: Final = 3.0


def name(gate: MetricGate) -> str:
    """Return the name of the gate on a metric."""
    return f"metric {gate.name}"


def judge(gate: MetricGate, rollout: Rollout, view: FleetView, now: float) -> Finding:
    """Return what the last answer says at `now` (Unix seconds).

    One from before the phase's first offer cannot tell of it, and may be of another phase's query.
    """
    found = dict(view.evidence.metrics).get(gate.name)
    if found is None:
        return told(name(gate), Verdict.INCONCLUSIVE, "not asked yet")
    began = view.phases[rollout.watched].offered_first
    if began is not None and found.at <= began:
        why = "the last answer is from before the phase's first offer"
        return told(name(gate), Verdict.INCONCLUSIVE, why)
    age_s, age_s_max = max(now - found.at, 0.0), _PERIODS_MAX * gate.every_s
    if age_s > age_s_max:
        why = f"the last answer is {age_s:.0f} s old, {age_s_max:g} s at most count"
        why = f"{why}; it was: {found.fault}" if found.fault else why
        return told(name(gate), Verdict.INCONCLUSIVE, why)
    if found.fault or found.value is None:
        return told(name(gate), Verdict.ERROR, found.fault)
    if gate.at_most is not None and found.value > gate.at_most:
        return _found(gate, found.value, Verdict.FAIL, gate.at_most, "above")
    if gate.at_least is not None and found.value < gate.at_least:
        return _found(gate, found.value, Verdict.FAIL, gate.at_least, "below")
    limit = gate.at_most if gate.at_most is not None else gate.at_least
    return _found(gate, found.value, Verdict.PASS, limit, "within")


def _found(
    gate: MetricGate, value: float, verdict: Verdict, limit: float | None, where: str
) -> Finding:
    shown = "no limit" if limit is None else f"the limit of {limit:g}"
    return told(name(gate), verdict, f"{value:g}, {where} {shown}", value=value, threshold=limit)
