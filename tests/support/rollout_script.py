"""Replays scripts against the planner and writes down all that it says.

A script is a text: `#` lines tell what it is about, `|` lines are the rollout file, `$` lines are
commands, everything else is what came out. The fleet is one of `rollout_reference`; orders are
carried out at once, unless the script lets the executor die.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from control_plane.rollouts import approvals, verbs
from control_plane.rollouts.evidence import Evidence, Metric, Pairs
from control_plane.rollouts.model import (
    FleetView,
    Joined,
    LabelCounts,
    Plan,
    Rollout,
    Standing,
)
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.planner import plan
from control_plane.rollouts.statistics import Arm
from firmware_bundles.errors import ApprovalRefused, ConflictError, ShoalError
from support.rollout_reference import Device, ReferenceFleet

_EVIDENCE = frozenset(
    {"pairs", "drifting", "failed", "deaths", "latency", "watts", "promised", "changed", "value"}
)


class Replay:
    """One rollout over an imagined fleet of `members` devices."""

    def __init__(self, spec: str, members: int, offsets: list[int | None]) -> None:
        parsed = parse(spec)
        self.rollout = Rollout(
            id="example",
            spec=parsed,
            release_path=f"{parsed.family}/{parsed.release}/manifest.json",
            standing=Standing(),
        )
        self.fleet = ReferenceFleet(members, offsets)
        self.told: dict[str, Any] = {}

    def view(self) -> FleetView:
        """The fleet, and what the script told of it."""
        return msgspec.structs.replace(self.fleet.view(self.rollout), **self.told)

    def run(self, command: str) -> list[str]:
        """Do one command; return the lines that come out."""
        word, *rest = command.split()
        match word:
            case "tick":
                found = self.rollout, self.view(), float(rest[0])
                lines = self._decided(plan(*found), rest)
                return [*lines, *self._outrun(plan(*found))] if "races" in rest else lines
            case "approve":
                return self._approved(int(rest[0]) - 1, rest[1], float(rest[2]))
            case _ if word in verbs.VERBS:
                return self._asked(verbs.VERBS[word], rest)
            case _:
                self._tell(word, rest)
        return []

    def _tell(self, word: str, rest: list[str]) -> None:
        """Let something be so from now on."""
        match word:
            case "phase":
                self._change(int(rest[0]) - 1, rest[1:])
            case "later":
                self._come_later(int(rest[0]))
            case "author":
                self.rollout = msgspec.structs.replace(self.rollout, created_by=rest[0])
            case "labels" | "bytes" | "ended_bytes" | "control_devices":
                self.told |= _told(word, rest)
            case (
                "pairs"
                | "metric"
                | "drifting"
                | "failed"
                | "deaths"
                | "latency"
                | "watts"
                | "promised"
                | "changed"
                | "value"
            ):
                self.told["evidence"] = self._evidence(word, rest)
            case _:
                raise AssertionError(f"no script says {word!r}")

    def _come_later(self, devices: int) -> None:
        """Let devices join after the end; `phase` with the next number tells how they fare."""
        self.fleet.devices += [Device() for _ in range(devices)]
        last = len(self.rollout.spec.course()) - 1
        joined = (*self.rollout.joined, Joined(phase=last, devices=devices))
        self.rollout = msgspec.structs.replace(self.rollout, joined=joined)

    def _evidence(self, word: str, rest: list[str]) -> Evidence:
        """Return what is known, with what the script tells now."""
        found: Evidence = self.told.get("evidence", Evidence())
        if word == "pairs":
            return Evidence(pairs=Pairs(*(int(each) for each in rest)))
        if word == "metric":
            asked = Metric(at=float(rest[1]), value=float(rest[2]))
            return found._replace(metrics=tuple((dict(found.metrics) | {rest[0]: asked}).items()))
        if word == "drifting":
            return found._replace(
                promised=found.promised._replace(drifting=(int(rest[0]), int(rest[1])))
            )
        if word == "value":
            arms = found.value(rest[0])._replace(**{rest[1]: _arm(*map(float, rest[2:]))})
            return found._replace(values=tuple((dict(found.values) | {rest[0]: arms}).items()))
        arm, mean, *others = rest[0], *(float(each) for each in rest[1:])
        if word == "latency":
            mean = math.log1p(1_000 * mean)
        if word == "watts":
            mean = math.log(mean)
        sums = {arm: _arm(mean, *others)}
        if word == "promised":
            arms = found.promised.arms._replace(**sums)
            return found._replace(promised=found.promised._replace(arms=arms))
        return found._replace(**{word: getattr(found, word)._replace(**sums)})

    def _outrun(self, other: Plan) -> list[str]:
        """Tell what becomes of the decision of an executor that looked at the same moment."""
        stored = self.rollout.standing.generation
        is_stored = other.next.generation == stored + 1
        return [f"   the other one: {'stored' if is_stored else 'refused'}, {stored} is stored"]

    def _approved(self, phase: int, by: str, now: float) -> list[str]:
        try:
            approval, decided = approvals.approve(self.rollout, now, by, phase)
        except (ApprovalRefused, ConflictError) as error:
            return _refused(error)
        given = (*self.rollout.approvals, approval)
        self.rollout = msgspec.structs.replace(self.rollout, approvals=given)
        return self._decided(decided, [])

    def _asked(self, verb: verbs.Verb, rest: list[str]) -> list[str]:
        try:
            decided = verb(self.rollout, self.view(), float(rest[0]), by=rest[1])
        except ConflictError as error:
            return _refused(error)
        return self._decided(decided, rest)

    def _decided(self, decided: Plan, rest: list[str]) -> list[str]:
        after = decided.next
        is_changed = after != self.rollout.standing
        mark = "->" if is_changed else "=="
        lines = [f"{mark} {after.state}, phase {after.phase + 1} {after.phase_state}"]
        self.rollout = msgspec.structs.replace(self.rollout, standing=after)
        for order in decided.orders:
            limits = "" if order.reached_max is None else f", {order.reached_max} at most"
            lines.append(f"   {order.action} {order.first}..{order.end}{limits}")
            if "dies" not in rest:
                self._carry_out(order, float(rest[0]))
        return lines + [f"   {sentence}" for sentence in decided.why]

    def _carry_out(self, order: Any, now: float) -> None:  # noqa: ANN401 - an order
        self.told.pop("control_devices", None)
        self.fleet.carry_out(self.rollout, order, now)

    def _change(self, phase: int, changes: list[str]) -> None:
        """Let devices of a phase go where the script says; who is not named is still waiting."""
        values = [(name, int(count)) for name, count in (each.split("=") for each in changes)]
        stuck = dict(values).get("stuck", 0)
        states = [name for name, count in values if name != "stuck" for _ in range(count)]
        positions = self.fleet.members_of(self.rollout, phase)
        states += ["waiting"] * (len(positions) - len(states))
        course = self.rollout.spec.course()
        mode = course[min(phase, len(course) - 1)].mode
        times = [self.fleet.devices[each].offered for each in positions]
        first = min((at for at in times if at is not None), default=None)
        for position, state in zip(positions, states, strict=True):
            device = self.fleet.devices[position]
            device.state = state
            device.is_stuck = stuck > 0 and state != "planned"
            stuck -= device.is_stuck
            device.mode = None if state == "planned" else mode
            device.offered = first if device.offered is None else device.offered


def _refused(error: ShoalError) -> list[str]:
    return [f"refused, {error.code}: {error.message}", *([f"  {error.hint}"] if error.hint else [])]


def _told(word: str, rest: list[str]) -> dict[str, Any]:
    if word == "labels":
        return {rest[0]: _labels(*rest[1:])}
    return {word: int(rest[0])}


def _arm(mean: float, devices: float, spread: float, count: float) -> Arm:
    """Return so many observations on devices whose means lie `spread` around the mean."""
    means = [mean + (-1) ** place * spread for place in range(int(devices))]
    return Arm.of(means, [0.0] * len(means), int(count))


def _labels(labelled: str, wrong: str, devices: str = "0", spread: str = "0") -> LabelCounts:
    """Return labels that came from so many devices, whose shares lie `spread` around the mean."""
    mean = int(wrong) / max(int(labelled), 1)
    shares = [mean + (-1) ** place * float(spread) for place in range(int(devices))]
    by_device = Arm.of(shares, [0.0] * len(shares), int(labelled))
    return LabelCounts(labelled=int(labelled), wrong=int(wrong), by_device=by_device)


def replay(script: str) -> str:
    """Return the script with what comes out of it now."""
    spec = "\n".join(re.findall(r"^\| ?(.*)$", script, flags=re.MULTILINE))
    commands = re.findall(r"^\$ (.*)$", script, flags=re.MULTILINE)
    kept = [line for line in script.splitlines() if line.startswith(("#", "|"))]
    members, *offsets = commands[0].removeprefix("members ").split()
    replayed = Replay(spec, int(members), [int(each) for each in offsets] or [None])
    lines = [*kept, "", f"$ {commands[0]}"]
    for command in commands[1:]:
        lines += [f"$ {command}", *replayed.run(command)]
    return "\n".join(lines) + "\n"
