"""What this device does now, in lines for a person. The values stand in `status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.status import DeviceFacts, FamilyFacts, SlotFacts


def lines(facts: DeviceFacts) -> list[str]:
    """Return what `shoal-agent status` prints."""
    told = [f"device      {facts.device or 'not enrolled'}"]
    if facts.server:
        told.append(f"server      {facts.server}")
    told.append(f"state       {facts.state_dir}")
    told.append(f"worker      {'answers' if facts.is_worker_answering else 'does not answer'}")
    if facts.is_worker_answering:
        told.append(
            f"buffer      {facts.buffer.segments} segments, {facts.buffer.bytes} bytes, "
            f"{facts.buffer.rows_dropped} rows dropped"
            + (f", {facts.buffer.samples_dropped} samples" if facts.buffer.samples_dropped else "")
        )
    for family in facts.families:
        told += _family_lines(family)
    told += [f"detected    {each.code} x{each.count}: {each.message}" for each in facts.detected]
    return told + [f"fault       {each.message} ({each.code})" for each in facts.faults]


def _family_lines(family: FamilyFacts) -> list[str]:
    state = f"{family.state}, generation {family.generation}" if family.state else "no deployment"
    told = [f"family      {family.family}: {state}"]
    for slot in family.slots:
        model = f"{slot.version} ({slot.digest[:12]})" if slot.digest else slot.fault
        told.append(f"  slot {slot.name}    {model}{' serving' if slot.is_serving else ''}")
    if family.worker and family.worker.ready:
        worker = family.worker
        told.append(
            f"  answers   {worker.version} on {worker.runtime} ({worker.delegate}): "
            f"{worker.answered} answered, {worker.errors} failed"
        )
        if worker.delegate_reason:
            told.append(f"  delegate  {worker.delegate}: {worker.delegate_reason}")
    if family.waits_for:
        told.append(f"  waits for {family.waits_for}")
    if family.fault:
        told.append(f"  fault     {family.fault.message} ({family.fault.code})")
    return told


def slot_lines(found: Mapping[str, Sequence[SlotFacts]]) -> list[str]:
    """Return what `shoal-agent slots` prints."""
    told = []
    for family, both in found.items():
        for slot in both:
            told += [
                f"{family}/{slot.name}  {slot.version or slot.fault}{_serving(slot)}",
                f"  mark       {slot.mark or 'unknown'}",
                f"  digest     {slot.digest or 'unknown'}",
                f"  installed  {_time(slot.installed_at)}, {slot.installed_count} in all",
                f"  activated  {_time(slot.activated_at)}, {slot.activated_count} in all",
                f"  committed  {_time(slot.committed_at)}",
            ]
    return told


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="seconds") if seconds else "never"


def _serving(slot: SlotFacts) -> str:
    return "  serving" if slot.is_serving else ""
