"""The gate on pairs: on the same labelled inputs, does the release lose more than it wins? Pure.

The sign e-process of `statistics` is exact for any number and mix of devices at every look. In a
phase in the shadow the release answers beside what serves; in one that serves, the previous model
answers beside the release while the devices are on probation.
"""

from __future__ import annotations

import math
from typing import Final

from control_plane.rollouts.evidence import Pairs
from control_plane.rollouts.gate_specs import ShadowPairsGate
from control_plane.rollouts.gates.question import told
from control_plane.rollouts.model import Finding, FleetView, Rollout, Verdict, devices_of, total
from control_plane.rollouts.statistics import sign_log_evidence

NAME: Final = "shadow_pairs"


def judge(gate: ShadowPairsGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what the pairs since the phase began say."""
    pairs, alpha = view.evidence.pairs, rollout.gates.alpha_each
    samples = {"pairs": pairs.pairs, "labelled": pairs.labelled, "devices": pairs.devices}
    if not 0 <= pairs.ours_only + pairs.theirs_only <= pairs.labelled:
        return told(NAME, Verdict.ERROR, f"{pairs}: impossible counts", samples=samples)
    split = pairs.ours_only + pairs.theirs_only
    told_numbers = (
        f"of {pairs.labelled} labelled inputs that both answered on {devices_of(pairs.devices)},"
        f" {pairs.ours_only} were wrong only by the release and {pairs.theirs_only} only by the"
        f" other model"
    )
    evidence = sign_log_evidence(pairs.ours_only, pairs.theirs_only)
    if evidence > math.log(1 / alpha):
        verdict, why = Verdict.FAIL, f"e-value {_number(evidence)}, above {1 / alpha:g}"
    elif pairs.labelled < gate.labels_min:
        needed = f"{gate.labels_min} labelled inputs are needed"
        verdict, why = Verdict.INCONCLUSIVE, lack(rollout, view) or needed
    else:
        verdict, why = Verdict.PASS, _detectable(pairs, alpha, evidence)
    return told(
        NAME,
        verdict,
        f"{told_numbers}; {why}",
        value=pairs.ours_only / split if split else None,
        threshold=0.5,
        samples=samples,
    )


def lack(rollout: Rollout, view: FleetView) -> str:
    """Say that no device can ever bring a pair, if that is so: in a first deployment."""
    reached = view.phases[: rollout.watched + 1]
    offered = total(reached, "offered")
    if view.evidence.pairs.pairs or not offered or total(reached, "stuck") < offered:
        return ""
    return (
        "no device had another model that could answer beside the release; leave the gate out of a"
        " first deployment"
    )


def losses_beyond(split: int, alpha: float) -> int | None:
    """Return how many of so many disagreements the release has to lose for harm to be shown."""
    threshold = math.log(1 / alpha)
    return next(
        (lost for lost in range(split + 1) if sign_log_evidence(lost, split - lost) > threshold),
        None,
    )


def _detectable(pairs: Pairs, alpha: float, evidence: float) -> str:
    split = pairs.ours_only + pairs.theirs_only
    needed = losses_beyond(split, alpha)
    shown = f"no harm is shown (e-value {_number(evidence)} of {1 / alpha:g})"
    if needed is None:
        return f"{shown}; {split} disagreements are too few to show any"
    return f"{shown}; {needed} lost of {split} disagreements would have been found"


def _number(evidence: float) -> str:
    return f"{math.exp(min(evidence, 600.0)):.3g}"
