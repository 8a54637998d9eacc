"""Replays scripts against the planner and writes down all that it says.

A script is a text: `#` lines tell what it is about, `|` lines are the rollout file, `$` lines are
commands, everything else is what came out. The fleet is a row of counts that the script changes;
orders are carried out at once, unless the script lets the executor die.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from control_plane.rollouts import verbs
from control_plane.rollouts.model import (
    Action,
    Approval,
    Counts,
    FleetView,
    LabelCounts,
    Order,
    Plan,
    Rollout,
    Standing,
    phase_ends,
)
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.planner import plan
from control_plane.rollouts.statistics import Arm
from firmware_bundles.errors import ConflictError

_SET_ASIDE = ("stuck", "offered_first", "offered_last")


class Replay:
    """One rollout over an imagined fleet of `members` devices."""

    def __init__(self, spec: str, members: int) -> None:
        parsed = parse(spec)
        self.rollout = Rollout(
            id="example",
            spec=parsed,
            release_path=f"{parsed.family}/{parsed.release}/manifest.json",
            standing=Standing(),
        )
        ends = phase_ends(parsed, members)
        sizes = [end - first for first, end in zip((0, *ends), ends, strict=False)]
        self.view = FleetView(
            phases=tuple(Counts(planned=size) for size in sizes),
            members=members,
            control_devices=members,
        )

    def run(self, command: str) -> list[str]:
        """Do one command; return the lines that come out."""
        word, *rest = command.split()
        match word:
            case "tick":
                return self._decided(plan(self.rollout, self.view, float(rest[0])), rest)
            case "phase":
                self._change(int(rest[0]) - 1, rest[1:])
            case "labels":
                self.view = msgspec.structs.replace(self.view, **{rest[0]: _labels(*rest[1:])})
            case "approve":
                approval = Approval(phase=int(rest[0]) - 1, by=rest[1], at=float(rest[2]))
                approvals = (*self.rollout.approvals, approval)
                self.rollout = msgspec.structs.replace(self.rollout, approvals=approvals)
            case "control_devices":
                self.view = msgspec.structs.replace(self.view, control_devices=int(rest[0]))
            case _:
                return self._asked(verbs.VERBS[word], rest)
        return []

    def _asked(self, verb: verbs.Verb, rest: list[str]) -> list[str]:
        try:
            return self._decided(verb(self.rollout, self.view, float(rest[0]), by=rest[1]), rest)
        except ConflictError as error:
            return [f"refused: {error.message}", f"  {error.hint}"]

    def _decided(self, decided: Plan, rest: list[str]) -> list[str]:
        after = decided.next
        is_changed = after != self.rollout.standing
        mark = "->" if is_changed else "=="
        lines = [f"{mark} {after.state}, phase {after.phase + 1} {after.phase_state}"]
        lines += [f"   {order.action} {order.first}..{order.end}" for order in decided.orders]
        lines += [f"   {sentence}" for sentence in decided.why]
        self.rollout = msgspec.structs.replace(self.rollout, standing=after)
        if "dies" not in rest:
            for order in decided.orders:
                self._carry_out(order, float(rest[0]))
        return lines

    def _carry_out(self, order: Order, now: float) -> None:
        phases = list(self.view.phases)
        if order.action is Action.OFFER:
            counts = phases[order.phase]
            phases[order.phase] = msgspec.structs.replace(
                counts, planned=0, waiting=counts.planned, offered_first=now, offered_last=now
            )
        else:
            phases = [_reverted(counts) for counts in phases]
        self.view = msgspec.structs.replace(self.view, phases=tuple(phases))
        planned = sum(counts.planned for counts in phases)
        beyond = self.view.members - phase_ends(self.rollout.spec, self.view.members)[-1]
        self.view = msgspec.structs.replace(self.view, control_devices=planned + beyond)

    def _change(self, index: int, changes: list[str]) -> None:
        """Set counts of a phase; who is not named is still waiting."""
        phases = list(self.view.phases)
        values: dict[str, Any] = {
            name: int(count) for name, count in (change.split("=") for change in changes)
        }
        before = phases[index]
        size = sum(
            getattr(before, name) for name in before.__struct_fields__ if name not in _SET_ASIDE
        )
        named = sum(count for name, count in values.items() if name != "stuck")
        phases[index] = Counts(
            waiting=size - named,
            offered_first=before.offered_first,
            offered_last=before.offered_last,
            **values,
        )
        self.view = msgspec.structs.replace(self.view, phases=tuple(phases))


def _labels(labelled: str, wrong: str, devices: str = "0", spread: str = "0") -> LabelCounts:
    """Return labels that came from so many devices, whose shares lie `spread` around the mean."""
    mean = int(wrong) / max(int(labelled), 1)
    shares = [mean + (-1) ** place * float(spread) for place in range(int(devices))]
    by_device = Arm.of(shares, [0.0] * len(shares), int(labelled))
    return LabelCounts(labelled=int(labelled), wrong=int(wrong), by_device=by_device)


def _reverted(counts: Counts) -> Counts:
    if not counts.offered:
        return counts
    return Counts(
        planned=counts.planned,
        committed=counts.stuck,
        stuck=counts.stuck,
        reverting=counts.reverting + counts.revertible,
        reverted=counts.reverted,
        superseded=counts.superseded,
        offered_first=counts.offered_first,
        offered_last=counts.offered_last,
    )


def replay(script: str) -> str:
    """Return the script with what comes out of it now."""
    spec = "\n".join(re.findall(r"^\| ?(.*)$", script, flags=re.MULTILINE))
    commands = re.findall(r"^\$ (.*)$", script, flags=re.MULTILINE)
    kept = [line for line in script.splitlines() if line.startswith(("#", "|"))]
    members = int(commands[0].removeprefix("members "))
    replayed = Replay(spec, members)
    lines = [*kept, "", f"$ {commands[0]}"]
    for command in commands[1:]:
        lines += [f"$ {command}", *replayed.run(command)]
    return "\n".join(lines) + "\n"
