"""The gate on installs: how many devices failed, went back, or stay silent. Pure."""

from __future__ import annotations

from typing import Final

from control_plane.rollouts.gate_specs import InstallsGate
from control_plane.rollouts.model import (
    Counts,
    Finding,
    FleetView,
    PhaseState,
    Rollout,
    Verdict,
    devices_of,
    offering_phase,
    total,
)

NAME: Final = "installs"


def is_overdue(rollout: Rollout, view: FleetView, now: float) -> bool:
    """Whether devices that the rollout waits for and that have not ended count as silent now.

    Time runs from the last offer, or from a later resume; while offers are still to be made it
    does not run.
    """
    if rollout.standing.phase_state in (PhaseState.SOAKING, PhaseState.AWAITING):
        return True
    if view.phases[offering_phase(rollout, view.phases)].planned:
        return False
    return now - begun(rollout, view) >= rollout.phase.timeout_s


def is_held_up(rollout: Rollout, view: FleetView, now: float, phase: int) -> bool:
    """Whether silence forbids more offers in a phase, while there are still some to make."""
    oldest = view.phases[phase].unfinished_first
    if oldest is None or rollout.gates.installs.silent_share_max:
        return False
    return now - max(oldest, rollout.standing.since) >= rollout.phase.timeout_s


def begun(rollout: Rollout, view: FleetView) -> float:
    """Return since when (Unix seconds) the rollout waits for devices to end."""
    since = rollout.standing.since
    return max(since, *(each.offered_last or since for each in awaited(rollout, view)))


def awaited(rollout: Rollout, view: FleetView) -> tuple[Counts, ...]:
    """Return the phases whose devices still have their time: the present one, and those retried."""
    phase, since = rollout.standing.phase, rollout.standing.since
    retried = [each for each in view.phases[:phase] if (each.offered_last or since) > since]
    return (*retried, view.phases[phase])


def silent(rollout: Rollout, view: FleetView, *, is_overdue: bool) -> int:
    """Return how many devices had their time and did not say how their offer ended."""
    every = total(view.phases[: rollout.standing.phase + 1], "unfinished")
    return every if is_overdue else every - total(awaited(rollout, view), "unfinished")


def judge(gate: InstallsGate, rollout: Rollout, view: FleetView, now: float) -> Finding:
    """Return what the signed reports say at `now` (Unix seconds)."""
    seen = view.phases[: rollout.standing.phase + 1]
    offered, broken = total(seen, "offered"), total(seen, "broken")
    finished, quiet = (
        total(seen, "finished"),
        silent(rollout, view, is_overdue=is_overdue(rollout, view, now)),
    )
    share = broken / offered if offered else 0.0
    verdict, sentence = _verdict(gate, offered, broken, finished, quiet)
    return Finding(
        gate=NAME,
        verdict=verdict,
        sentence=f"{NAME}: {sentence}",
        value=share,
        threshold=gate.failed_share_max,
        samples={"offered": offered, "finished": finished, "broken": broken, "silent": quiet},
    )


def _verdict(
    gate: InstallsGate, offered: int, broken: int, finished: int, quiet: int
) -> tuple[Verdict, str]:
    if not offered:
        return Verdict.INCONCLUSIVE, "no device has an offer yet"
    devices = devices_of(offered)
    told = f"{broken} of {devices} failed or rolled back ({broken / offered:.1%})"
    told += f", {quiet} silent" if quiet else ""
    limit = f"{gate.failed_share_max:.1%}"
    if broken > gate.failed_share_max * offered:
        return Verdict.FAIL, f"{told}, above the limit of {limit}"
    if quiet > gate.silent_share_max * offered:
        allowed = f"{gate.silent_share_max:.1%} may be"
        return Verdict.INCONCLUSIVE, f"{quiet} of {devices} silent, {allowed}"
    if pending := offered - finished - quiet:
        return Verdict.INCONCLUSIVE, f"{pending} of {devices} not yet ended"
    needed = min(gate.finished_min, offered)
    if finished < needed:
        return Verdict.INCONCLUSIVE, f"{finished} of {devices} ended, {needed} are needed"
    return Verdict.PASS, f"{told}, within the limit of {limit}"
