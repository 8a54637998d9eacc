"""The gate on traffic: how many bytes devices fetched for the release, on average. Pure."""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.gate_specs import TrafficGate
from control_plane.rollouts.gates.question import told
from control_plane.rollouts.model import Finding, FleetView, Rollout, Verdict, devices_of, total

NAME: Final = "traffic"


def judge(gate: TrafficGate, rollout: Rollout, view: FleetView) -> Finding:
    """Return what devices told, signed, of the bytes that they fetched."""
    ended = total(view.phases[: rollout.watched + 1], "finished")
    samples = {"devices": ended}
    if not ended:
        return told(NAME, Verdict.INCONCLUSIVE, "no device has ended yet", samples=samples)
    mean = view.ended_bytes / ended
    limit = f"the limit of {gate.device_bytes_max}"
    is_above = mean > gate.device_bytes_max
    verdict, where = (Verdict.FAIL, "above") if is_above else (Verdict.PASS, "within")
    return told(
        NAME,
        verdict,
        f"{mean:.0f} bytes a device, {devices_of(ended)} ended, {where} {limit}",
        value=mean,
        threshold=float(gate.device_bytes_max),
        samples=samples,
    )
