"""From what is known of the fleet to what is the matter: pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from control_plane.alerts.decision import Kind, Signal
from firmware_bundles.sketches.baseline import ColumnKind
from firmware_bundles.sketches.watch import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from control_plane.telemetry.standing import WatchRow
    from firmware_bundles.sketches.watch import Finding

NAMED_MAX: Final = 8
DEVICES_NAMED_MAX: Final = 20
_TESTED: Final = frozenset({State.STABLE, State.CHANGED})
_QUESTIONS: Final = {"missing": Kind.MISSING, "out_of_range": Kind.OUT_OF_RANGE}
_SAYS: Final = {
    Kind.CHANGE: "changed",
    Kind.PREDICTION_DRIFT: "changed its predictions",
    Kind.MISSING: "misses values",
    Kind.OUT_OF_RANGE: "has values out of range",
}


class Silence(NamedTuple):
    """A device that is not connected, and when it was last heard."""

    device_id: str
    last_seen: float


class Count(NamedTuple):
    """Something that a device counts: `code` names what, or the refusal; `message` says more."""

    kind: Kind
    device_id: str
    number: int
    code: str
    message: str = ""


class Rules(NamedTuple):
    """When many devices are a cohort's matter: a share of those tested, and a least number."""

    cohort_share: float = 0.2
    cohort_devices: int = 3


def of_devices(rows: Iterable[WatchRow]) -> list[Signal]:
    """Return the changes of devices; each sort of change is a matter of its own."""
    return [
        _change(row, kind, findings)
        for row in rows
        if row.standing.is_changed
        for kind, findings in _sorted(row.standing.findings).items()
    ]


def of_cohorts(
    rows: Sequence[WatchRow], members: Mapping[str, Sequence[str]], rules: Rules
) -> list[Signal]:
    """Return the cohorts, by family, of which many devices changed."""
    found = []
    for cohort, device_ids in members.items():
        wanted = frozenset(device_ids)
        families: dict[str, list[WatchRow]] = defaultdict(list)
        for row in rows:
            if row.key.device_id in wanted and row.standing.state in _TESTED:
                families[row.key.family].append(row)
        for family, tested in families.items():
            changed = [row for row in tested if row.standing.is_changed]
            if len(changed) >= max(rules.cohort_devices, rules.cohort_share * len(tested)):
                found.append(_cohort(cohort, family, changed, len(tested)))
    return found


def of_silence(
    rows: Iterable[Silence], started: float, now: float, silent_s: float
) -> list[Signal]:
    """Return the devices without a word for `silent_s`; before `started` nobody listened."""
    return [
        Signal(
            Kind.SILENT,
            f"device {row.device_id} has been silent since its last word",
            device_id=row.device_id,
            details={"last_seen": row.last_seen},
        )
        for row in rows
        if now - max(row.last_seen, started) >= silent_s
    ]


def of_counts(rows: Iterable[Count]) -> list[Signal]:
    """Return what devices dropped, had to park, or refused."""
    return [
        Signal(
            row.kind,
            f"device {row.device_id} {_COUNTED[row.kind].format(number=row.number, of=row.code)}",
            device_id=row.device_id,
            about=row.code,
            level=row.number,
            details={"count": row.number, "message": row.message},
        )
        for row in rows
    ]


_COUNTED: Final = {
    Kind.DROPPED: "dropped {number} {of} that its buffer could not hold",
    Kind.PARKED: "parked {number} {of} that cannot be accepted",
    Kind.REFUSED: "reports {number} refused attempts: {of}",
}


def named(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as they are told: the strongest first, the rest only counted elsewhere."""
    return [
        {
            "column": each.column,
            "kind": each.kind.value,
            "question": each.question,
            "score": each.score,
            "windows": each.windows,
            "sudden": each.is_sudden,
        }
        for each in list(findings)[:NAMED_MAX]
    ]


def names(findings: Sequence[Finding], most: int = 3) -> str:
    """Return the columns of findings in words."""
    columns = list(dict.fromkeys(each.column for each in findings))
    more = f" and {len(columns) - most} more" if len(columns) > most else ""
    return ", ".join(columns[:most]) + more


def _sorted(findings: Iterable[Finding]) -> dict[Kind, list[Finding]]:
    found: dict[Kind, list[Finding]] = defaultdict(list)
    for each in findings:
        is_input = each.kind is ColumnKind.FEATURE
        shape = Kind.CHANGE if is_input else Kind.PREDICTION_DRIFT
        found[_QUESTIONS.get(each.question, shape)].append(each)
    return found


def _change(row: WatchRow, kind: Kind, findings: list[Finding]) -> Signal:
    standing = row.standing
    return Signal(
        kind,
        f"device {row.key.device_id} {_SAYS[kind]} ({row.key.family} {row.version or ''}):"
        f" {names(findings)}",
        device_id=row.key.device_id,
        family=row.key.family,
        model=row.key.model,
        details={
            "version": row.version,
            "since": standing.since,
            "rings": standing.rings,
            "score": standing.score,
            "tested_windows": standing.tested,
            "features": len({each.column for each in findings}),
            "findings": named(findings),
        },
    )


def _cohort(cohort: str, family: str, changed: list[WatchRow], tested: int) -> Signal:
    columns: dict[str, int] = defaultdict(int)
    for row in changed:
        for column in {each.column for each in row.standing.findings}:
            columns[column] += 1
    often = sorted(columns, key=lambda column: (-columns[column], column))
    return Signal(
        Kind.COHORT_CHANGE,
        f"{len(changed)} of {tested} devices of the cohort {cohort} changed ({family})",
        cohort=cohort,
        family=family,
        details={
            "changed": len(changed),
            "tested": tested,
            "devices": [row.key.device_id for row in changed[:DEVICES_NAMED_MAX]],
            "columns": {column: columns[column] for column in often[:NAMED_MAX]},
        },
    )
