"""What serving models answered and failed, and their workers' deaths, summed up from reports.

What happened between two reports is decided in `fleet.service`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET
from sqlalchemy import select

from control_plane.fleet.service import Said, Served, between
from control_plane.store import many
from control_plane.store.tally_schema import service_count, service_said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from firmware_bundles.wire.messages import Report, Serving

SPAN_S: Final = 300
_IDS_PER_STATEMENT: Final = 500
_Place = tuple[str, str]


def add(connection: Connection, reports: Sequence[Report], now: float) -> None:
    """Count what new reports tell, next to what was told before; they came `now` (Unix seconds).

    An agent that does not tell is not counted. While nothing serves, what was told before stays:
    a worker that dies again and again is often not there when a report is made.
    """
    told = {
        report.device
        for report in reports
        for family in report.families
        if family.serving and _tells(family.serving)
    }
    if not told:
        return
    known = _known(connection, sorted(told))
    rows = []
    for report in reports:
        for family in report.families:
            place = report.device, family.family
            if report.device not in told or family.serving is None:
                continue
            said = _said(family.serving, now)
            served = between(known.get(place), said)
            known[place] = said
            if served != Served():
                rows.append(_row(place, said, served))
    many.add(connection, service_count, rows, newest=("received",))
    new = [(place, said) for place, said in known.items() if said.received == now]
    many.upsert(
        connection,
        service_said,
        [{"device_id": device, "family": name} | said._asdict() for (device, name), said in new],
    )


def _known(connection: Connection, ids: Sequence[str]) -> dict[_Place, Said]:
    of = service_said.c
    found: dict[_Place, Said] = {}
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        own = of.device_id.in_(ids[start : start + _IDS_PER_STATEMENT])
        columns = (of[name] for name in ("device_id", "family", *Said._fields))
        query = select(*columns).where(own)
        for device_id, family, *said in connection.execute(query):
            found[device_id, family] = Said(*said)
    return found


def _tells(serving: Serving) -> bool:
    return any(told is not UNSET for told in (serving.failed, serving.deaths, serving.energy))


def _said(serving: Serving, now: float) -> Said:
    return Said(
        model=serving.digest,
        since=serving.since,
        answered=serving.answered,
        failed=None if serving.failed is UNSET else serving.failed,
        deaths=None if serving.deaths is UNSET else serving.deaths,
        received=now,
        joules=serving.energy.joules if serving.energy else None,
        measured_s=serving.energy.seconds if serving.energy else None,
    )


def _row(place: _Place, said: Said, served: Served) -> dict[str, Any]:
    return {
        "device_id": place[0],
        "family": place[1],
        "model": said.model,
        "span": int(said.received // SPAN_S),
        "received": said.received,
        "requests": served.answered + served.failed,
        "failed": served.failed,
        "seconds": served.seconds,
        "deaths": served.deaths,
        "joules": served.joules,
        "measured_s": served.measured_s,
    }
