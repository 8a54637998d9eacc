"""Telemetry over HTTP: predictions received, accuracy by labels, drift from the baselines."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from control_plane.api.auth import Access, Role
from control_plane.api.watches import DeviceChange, change_of, known
from control_plane.store.telemetry import AccuracyRow, PredictionRow, Telemetry
from control_plane.telemetry.cohort_drift import CohortDrift, ModelDrift
from firmware_bundles.sketches.skew import Skew

_DAY_S: Final = 86_400.0

CohortFilter = Annotated[
    str | None, Query(max_length=63, description="Only this cohort's devices.")
]
FamilyFilter = Annotated[str | None, Query(max_length=31, description="Only this family's models.")]
PastS = Annotated[float, Query(gt=0, le=90 * _DAY_S, description="Only windows of this time.")]
RowT = TypeVar("RowT", PredictionRow, AccuracyRow)


class DevicePredictions(BaseModel):
    """One model's predictions on one device.

    `answered` counts since the device serves this model, as it last reported; it is null for models
    that the device no longer serves. `received` counts what is stored here.
    """

    device_id: str
    family: str
    model: str
    version: str | None
    answered: int | None
    received: int
    latest: float | None


class ModelPredictions(BaseModel):
    """One model's predictions on all devices asked for."""

    family: str
    model: str
    version: str | None
    devices: int
    received: int


class Predictions(BaseModel):
    """Predictions by device and model, and by model."""

    devices: list[DevicePredictions]
    models: list[ModelPredictions]


class ColumnDistance(BaseModel):
    """Effect sizes of one column with their n, and p-values of one window; no alarm.

    `wasserstein` is in standard deviations of the baseline (null for classes, and where it has
    none), of rows taken to lie in the middle of their bins; `is_rejected` is by Benjamini and
    Hochberg among all columns, at .01. `shift` is the difference of means from the baseline in its
    standard deviations (null where it has none), `excess` the PSI less what chance adds; both with
    their intervals of 95 %.
    """

    name: str
    kind: str
    n: int
    psi: float
    js: float
    hellinger: float
    wasserstein: float | None
    ks: float
    ks_p: float
    chi2_p: float
    p: float
    is_rejected: bool
    is_enough: bool
    shift: float | None
    shift_low: float | None
    shift_high: float | None
    excess: float
    excess_low: float
    excess_high: float | None


class DriftOfModel(BaseModel):
    """One model's merged windows beside its signed baseline, and how its devices stand."""

    family: str
    model: str
    version: str | None
    rows: int
    windows: int
    unreadable: int
    baseline_rows: int
    columns: list[ColumnDistance]
    devices: list[DeviceChange]


def router(
    access: Access,
    telemetry: Telemetry,
    drift: CohortDrift,
    members: Callable[[str], Sequence[str]],
) -> APIRouter:
    """Return the routes below `/telemetry`. `members` are the devices of a cohort by its name."""
    routes = APIRouter(
        prefix="/telemetry",
        tags=["telemetry"],
        dependencies=[Depends(access.require(Role.VIEWER))],
    )

    @routes.get("/predictions")
    def predictions(cohort: CohortFilter = None) -> Predictions:
        """Count predictions answered and received, by device and model."""
        rows = _of_cohort(telemetry.predictions(), cohort, members)
        return Predictions(
            devices=[DevicePredictions(**row._asdict()) for row in rows], models=_by_model(rows)
        )

    @routes.get("/drift")
    def drift_of(
        cohort: CohortFilter = None, family: FamilyFilter = None, past_s: PastS = _DAY_S
    ) -> list[DriftOfModel]:
        """Compare the merged windows of a cohort with the baselines of its models."""
        return [_drift(each) for each in drift.find(cohort, family, past_s)]

    return routes


def _of_cohort(
    rows: list[RowT], cohort: str | None, members: Callable[[str], Sequence[str]]
) -> list[RowT]:
    if cohort is None:
        return rows
    wanted = frozenset(members(cohort))
    return [row for row in rows if row.device_id in wanted]


def _groups(rows: list[RowT]) -> dict[tuple[str, str], list[RowT]]:
    found: dict[tuple[str, str], list[RowT]] = {}
    for row in rows:
        found.setdefault((row.family, row.model), []).append(row)
    return found


def _by_model(rows: list[PredictionRow]) -> list[ModelPredictions]:
    return [
        ModelPredictions(
            family=family,
            model=model,
            version=group[0].version,
            devices=len(group),
            received=sum(row.received for row in group),
        )
        for (family, model), group in sorted(_groups(rows).items())
    ]


def _drift(found: ModelDrift) -> DriftOfModel:
    columns = [
        ColumnDistance.model_validate(asdict(column) | _skew(skew))
        for column, skew in zip(found.columns, found.skews, strict=True)
    ]
    about = found._asdict() | {"columns": columns}
    about["devices"] = [change_of(row) for row in found.devices]
    del about["skews"]
    return DriftOfModel(**about)


def _skew(skew: Skew) -> dict[str, float | None]:
    names = "shift", "shift_low", "shift_high", "excess", "excess_low", "excess_high"
    return {name: known(getattr(skew, name)) for name in names}
