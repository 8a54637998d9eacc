"""Checked reports made rows: many in one transaction. What a report has to be stands in `fleet`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy import select

from control_plane.fleet import facts
from control_plane.store import many, service_counts
from control_plane.store.schema import detection, device, report_counter, reported

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from firmware_bundles.wire.messages import FamilyReport, Report

_IDS_PER_STATEMENT: Final = 500


class _Count(NamedTuple):
    """How far an incarnation counted; `turn` counts those of a device by their first reports."""

    counter: int
    turn: int


def accept(connection: Connection, reports: Sequence[Report], now: float) -> list[bool]:
    """Store reports in order; False for each that, or a later one than it, was stored before.

    An incarnation is over when the next one speaks: what it said is not believed any more, even if
    a broker kept it back until then.
    """
    known = _known(connection, {report.device for report in reports})
    is_new = [_count(known.setdefault(report.device, {}), report) for report in reports]
    taken = [report for report, new in zip(reports, is_new, strict=True) if new]
    many.upsert(connection, report_counter, [_counted(report, known) for report in taken])
    many.update(connection, device, [_told(report, now) for report in taken])
    service_counts.add(connection, taken, now)
    said = ((report.device, family) for report in taken for family in report.families)
    many.upsert(connection, reported, [_reported(*each, now) for each in said])
    detected = ((report.device, each) for report in taken for each in report.detected)
    rows = [msgspec.to_builtins(each) | {"device_id": device_id} for device_id, each in detected]
    many.upsert(connection, detection, rows)
    return is_new


def _known(connection: Connection, devices: Iterable[str]) -> dict[str, dict[str, _Count]]:
    found: dict[str, dict[str, _Count]] = {}
    ids, said = sorted(devices), report_counter.c
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        query = select(said.device_id, said.incarnation, said.counter, said.turn).where(
            said.device_id.in_(ids[start : start + _IDS_PER_STATEMENT])
        )
        for device_id, incarnation, *count in connection.execute(query):
            found.setdefault(device_id, {})[incarnation] = _Count(*count)
    return found


def _count(known: dict[str, _Count], report: Report) -> bool:
    """Note the counter of a report; False if a later one of its device is known."""
    newest = max((each.turn for each in known.values()), default=0)
    said = known.get(report.incarnation)
    if said is not None and (report.counter <= said.counter or said.turn < newest):
        return False
    known[report.incarnation] = _Count(report.counter, newest + 1 if said is None else said.turn)
    return True


def _counted(report: Report, known: Mapping[str, Mapping[str, _Count]]) -> dict[str, Any]:
    turn = known[report.device][report.incarnation].turn
    return {
        "device_id": report.device,
        "incarnation": report.incarnation,
        "counter": report.counter,
        "turn": turn,
    }


def _told(report: Report, now: float) -> dict[str, Any]:
    return {
        "id": report.device,
        "last_seen": now,
        "is_online": True,
        "inventory": dict(report.inventory),
        "facts": facts.reported(report.inventory, map(_served, report.families)),
        "agent_version": report.agent_version,
        "buffer": msgspec.to_builtins(report.buffer),
    }


def _served(family: FamilyReport) -> facts.Served:
    serving = family.serving
    if serving is None:
        return facts.Served(family.family, None, None)
    return facts.Served(family.family, serving.version, serving.delegate)


def _reported(device_id: str, family: FamilyReport, now: float) -> dict[str, Any]:
    serving, fault, transfer = family.serving, family.fault, family.transfer
    return {
        "device_id": device_id,
        "family": family.family,
        "generation": family.generation,
        "state": family.state.value if family.state else None,
        "rollout_id": family.rollout,
        "serving_digest": serving.digest if serving else None,
        "serving_version": serving.version if serving else None,
        "runtime": serving.runtime if serving else None,
        "delegate": serving.delegate if serving else None,
        "delegate_reason": (serving.delegate_reason or None) if serving else None,
        "since": serving.since if serving else None,
        "answered": serving.answered if serving else None,
        "fault_code": fault.code if fault else None,
        "fault_message": fault.message if fault else None,
        "waits_for": family.waits_for or None,
        "arm": family.arm.value if family.arm else None,
        "received": now,
        "chunk_bytes": transfer.chunk_bytes if transfer else None,
        "patch_bytes": transfer.patch_bytes if transfer else None,
        "saved_bytes": transfer.saved_bytes if transfer else None,
    }
