"""Watches over HTTP: how devices stand, beside their fleet too, and what is learnt anew."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from math import isfinite
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from control_plane.api.auth import Access, Caller, Role
from control_plane.telemetry import device_drift
from control_plane.telemetry.apart import Apart, largest
from control_plane.telemetry.device_drift import DeviceDrift, DeviceDrifts, Question
from control_plane.telemetry.standing import WatchRow
from control_plane.telemetry.watching import Watching
from firmware_bundles.sketches.watch import State

_DAY_S: Final = 86_400.0

CohortFilter = Annotated[
    str | None, Query(max_length=63, description="Only this cohort's devices.")
]
FamilyFilter = Annotated[str | None, Query(max_length=31, description="Only this family's models.")]
DeviceFilter = Annotated[str | None, Query(max_length=128, description="Only this device.")]
PastS = Annotated[float, Query(gt=0, le=90 * _DAY_S, description="Only windows of this time.")]


class Feature(BaseModel):
    """A column that changed: what was asked of it, its score, and for how many tested windows.

    `sudden` tells a step from a slow drift.
    """

    column: str
    kind: str
    question: str
    score: float
    windows: int
    sudden: bool


class DeviceChange(BaseModel):
    """Whether a device changed against its own reference, and since when; times of windows.

    `score` is beside the threshold of the setting `watch_threshold`; `features` say why it last
    rang, at `changed`. While it is commissioned, with `reference_rows` so far, it shows skew only.
    """

    device_id: str
    family: str
    model: str
    version: str | None
    state: State
    since: float
    changed: float | None
    score: float
    rings: int
    tested: int
    reference_rows: int
    late: int
    unreadable: int
    features: list[Feature]


class ColumnApart(BaseModel):
    """One column of a device beside the others: `shift` in their standard deviations.

    Null where theirs are all the same. PSI and JS mean nothing without both n.
    """

    column: str
    kind: str
    n: int
    fleet_n: int
    shift: float | None
    shift_low: float | None
    shift_high: float | None
    psi: float
    js: float


class DeviceBesideFleet(BaseModel):
    """A model on a device beside the other devices with it, the columns that differ most first.

    `largest` is how far the farthest column surely is, in standard deviations.
    """

    device_id: str
    family: str
    model: str
    version: str | None
    rows: int
    fleet_rows: int
    fleet_devices: int
    largest: float
    change: DeviceChange | None
    columns: list[ColumnApart]


class Counters(BaseModel):
    """Counters of one column: missing, below the first edge, one for each bin, above the last."""

    rows: int
    counts: list[int]


class Histogram(BaseModel):
    """One column: the signed baseline, the windows asked for, and a device's own reference."""

    column: str
    kind: str
    edges: list[float]
    baseline: Counters
    current: Counters
    reference: Counters | None


class Recommissioning(BaseModel):
    """Whose normal is to be learnt anew, and for the models of which family."""

    device: Annotated[str, Field(max_length=128, examples=["cam-7"])]
    family: Annotated[str, Field(max_length=31, examples=["digits"])]


class Recommissioned(BaseModel):
    """For how many models the reference was forgotten."""

    models: int


def router(access: Access, watching: Watching, drifts: DeviceDrifts) -> APIRouter:
    """Return the routes of watches, below `/telemetry`."""
    viewer = Depends(access.require(Role.VIEWER))
    routes = APIRouter(prefix="/telemetry", tags=["telemetry"])

    @routes.get("/devices", dependencies=[viewer])
    def devices(
        cohort: CohortFilter = None,
        device: DeviceFilter = None,
        family: FamilyFilter = None,
        past_s: PastS = _DAY_S,
    ) -> list[DeviceBesideFleet]:
        """Compare each device with all others of the cohort that have its model."""
        return [_beside(each) for each in drifts.find(Question(cohort, device, family, past_s))]

    @routes.get("/histogram", dependencies=[viewer])
    def histogram(
        model: Annotated[str, Query(max_length=64, description="A model's digest.")],
        column: Annotated[str, Query(max_length=400, description="A column of its baseline.")],
        cohort: CohortFilter = None,
        device: DeviceFilter = None,
        past_s: PastS = _DAY_S,
    ) -> Histogram:
        """Return one column's counters."""
        question = Question(cohort, device, None, past_s)
        return _histogram(drifts.histograms(question, model, column))

    @routes.post("/recommission")
    def recommission(
        wanted: Recommissioning,
        caller: Annotated[Caller, Depends(access.require(Role.OPERATOR))],
    ) -> Recommissioned:
        """Forget a device's reference: its windows from now on are its normal."""
        count = watching.commission_anew(wanted.device, wanted.family, caller.actor)
        return Recommissioned(models=count)

    return routes


def change_of(row: WatchRow) -> DeviceChange:
    """Return how a device stands, as it is told."""
    standing = row.standing
    return DeviceChange(
        **row.key._asdict(),
        version=row.version,
        state=standing.state,
        since=standing.since,
        changed=standing.changed,
        score=standing.score,
        rings=standing.rings,
        tested=standing.tested,
        reference_rows=standing.reference_rows,
        late=standing.late,
        unreadable=standing.unreadable,
        features=[
            Feature(
                column=each.column,
                kind=each.kind.value,
                question=each.question,
                score=each.score,
                windows=each.windows,
                sudden=each.is_sudden,
            )
            for each in (standing.findings if standing.is_changed else ())
        ],
    )


def known(value: float) -> float | None:
    """Return a number as JSON can say it: what is not finite is null."""
    return value if isfinite(value) else None


def _beside(found: DeviceDrift) -> DeviceBesideFleet:
    return DeviceBesideFleet(
        device_id=found.device_id,
        family=found.family,
        model=found.model,
        version=found.version,
        rows=found.rows,
        fleet_rows=found.fleet_rows,
        fleet_devices=found.fleet_devices,
        largest=largest(found.columns),
        change=None if found.row is None else change_of(found.row),
        columns=[_column(each) for each in found.columns],
    )


def _column(each: Apart) -> ColumnApart:
    shifts = {name: known(getattr(each, name)) for name in ("shift", "shift_low", "shift_high")}
    return ColumnApart(**each._asdict() | shifts)


def _histogram(found: device_drift.Histograms) -> Histogram:
    return Histogram(
        column=found.column.name,
        kind=found.column.kind.value,
        edges=list(found.column.edges),
        baseline=_counters(found.baseline),
        current=_counters(found.current),
        reference=None if found.reference is None else _counters(found.reference),
    )


def _counters(shares: device_drift.Shares) -> Counters:
    return Counters(rows=shares.rows, counts=shares.counts)
