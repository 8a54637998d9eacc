"""What the audit log is told of rollouts: beginnings, decisions, orders, approvals."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from control_plane.audit import SERVICE, Statement

if TYPE_CHECKING:
    from control_plane.rollouts.model import Approval, Order, Plan, Rollout


def of_creation(wanted: Rollout, members: int, by: str) -> Statement:
    """Return what is told of a new rollout over so many devices."""
    spec = msgspec.json.encode(wanted.spec, order="sorted")
    details = {
        "release": wanted.release_path,
        "cohort": wanted.spec.cohort,
        "devices": members,
        "spec_sha256": hashlib.sha256(spec).hexdigest(),
    }
    return Statement(wanted.created, by, "rollout.created", _subject(wanted), details)


def of_decision(before: Rollout, plan: Plan, now: float, by: str) -> Statement:
    """Return what is told of a decision."""
    details = {
        **msgspec.to_builtins(plan.next),
        "why": plan.why,
        "gates": {finding.gate: finding.verdict for finding in plan.findings},
    }
    return Statement(now, by, "rollout.decided", _subject(before), details)


def of_order(wanted: Rollout, order: Order, devices: int, now: float) -> Statement:
    """Return what is told of one order, or a part of it, to so many devices."""
    details: dict[str, Any] = {
        **msgspec.to_builtins(order),
        "devices": devices,
        "generation": wanted.standing.generation,
    }
    return Statement(now, SERVICE, "rollout.ordered", _subject(wanted), details)


def of_approval(before: Rollout, approval: Approval, by: str) -> Statement:
    """Return what is told of an approval."""
    return Statement(
        approval.at, by, "rollout.approved", _subject(before), {"phase": approval.phase + 1}
    )


def _subject(wanted: Rollout) -> str:
    return f"rollout/{wanted.id}"
