"""What sums of telemetry say over HTTP: latency, and how much is stored and was deleted."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from control_plane.api.auth import Access, Role
from control_plane.store.pruning import Pruning
from control_plane.telemetry.latency_groups import By, GroupLatency, Latencies

_DAY_S: Final = 86_400.0

CohortFilter = Annotated[
    str | None, Query(max_length=63, description="Only this cohort's devices.")
]
FamilyFilter = Annotated[str | None, Query(max_length=31, description="Only this family's models.")]
PastS = Annotated[
    float, Query(gt=0, le=3_660 * _DAY_S, description="What came within this time, whole hours.")
]


class LatencyPercentile(BaseModel):
    """A percentile, and the bounds of its bucket; `high_us` is null where there is none."""

    us: float
    low_us: int
    high_us: int | None


class LatencyOfGroup(BaseModel):
    """The latency of one model's predictions in one group (arm, device or cohort).

    `answered` predictions took `mean_us` on average; percentiles are of the `counted` ones.
    """

    family: str
    model: str
    version: str | None
    group: str
    devices: int
    answered: int
    mean_us: float
    counted: int
    p50: LatencyPercentile | None
    p90: LatencyPercentile | None
    p99: LatencyPercentile | None


class StoredKind(BaseModel):
    """Segments of one kind that are stored now, and their rows."""

    kind: str
    segments: int
    rows: int


class DeletedRows(BaseModel):
    """What retention deleted so far, in rows, and when last."""

    what: str
    rows: int
    latest: float


class Storage(BaseModel):
    """What is stored, and what was deleted; all of it is in the sums."""

    stored: list[StoredKind]
    deleted: list[DeletedRows]


def router(access: Access, latencies: Latencies, pruning: Pruning) -> APIRouter:
    """Return more of the routes below `/telemetry`."""
    routes = APIRouter(
        prefix="/telemetry",
        tags=["telemetry"],
        dependencies=[Depends(access.require(Role.VIEWER))],
    )

    @routes.get("/latency")
    def latency(
        cohort: CohortFilter = None,
        family: FamilyFilter = None,
        past_s: PastS = _DAY_S,
        by: By = By.ARM,
    ) -> list[LatencyOfGroup]:
        """Return percentiles of the latency of answers by model, and arm, device or cohort."""
        return [_latency(each) for each in latencies.find(cohort, family, past_s, by)]

    @routes.get("/storage")
    def storage() -> Storage:
        """Count what is stored, and what retention deleted."""
        return Storage(
            stored=[
                StoredKind(kind=kind, segments=segments, rows=rows)
                for kind, segments, rows in pruning.stored()
            ],
            deleted=[DeletedRows(**each._asdict()) for each in pruning.deletions()],
        )

    return routes


def _latency(found: GroupLatency) -> LatencyOfGroup:
    shown = {
        name: None if value is None else LatencyPercentile(**value._asdict())
        for name, value in (("p50", found.p50), ("p90", found.p90), ("p99", found.p99))
    }
    return LatencyOfGroup(**found._asdict() | shown)
