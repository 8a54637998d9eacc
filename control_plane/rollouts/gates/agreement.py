"""The gate on agreement: how often the release answers as the model beside it. Pure."""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.gate_specs import AgreementGate
from control_plane.rollouts.gates.question import told
from control_plane.rollouts.gates.shadow_pairs import lack
from control_plane.rollouts.model import Finding, FleetView, Rollout, Verdict, devices_of
from control_plane.rollouts.statistics import lower_bound

NAME: Final = "agreement"


def judge(gate: AgreementGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the pairs since the phase began say of agreement."""
    pairs, alpha = view.evidence.pairs, rollout.gates.alpha_each
    samples = {"pairs": pairs.pairs, "agreed": pairs.agreed, "devices": pairs.devices}
    if not 0 <= pairs.agreed <= pairs.pairs:
        return told(NAME, Verdict.ERROR, f"{pairs}: impossible counts", samples=samples)
    if pairs.pairs < gate.pairs_min:
        needed = lack(rollout, view) or f"{gate.pairs_min} are needed"
        why = f"{pairs.pairs} inputs were answered by both; {needed}"
        return told(NAME, Verdict.INCONCLUSIVE, why, samples=samples)
    share = pairs.agreed / pairs.pairs
    least = lower_bound(pairs.pairs - pairs.agreed, pairs.pairs, alpha)
    limit = f"the limit of {gate.share_min:.1%}"
    verdict, why = Verdict.PASS, f"within {limit}"
    if least > 1 - gate.share_min:
        verdict, why = Verdict.FAIL, f"at most {1 - least:.1%}, below {limit}"
    elif share < gate.share_min:
        why = f"below {limit}, but not shown to be: at most {1 - least:.1%}"
        verdict = Verdict.INCONCLUSIVE
    alike = f"{share:.1%} of {pairs.pairs} inputs on {devices_of(pairs.devices)} answered alike"
    return told(
        NAME, verdict, f"{alike}, {why}", value=share, threshold=gate.share_min, samples=samples
    )
