"""Telemetry over HTTP: how well models do on labels and without, and how they treat segments."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from collections.abc import Callable
from math import isnan
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from control_plane.api.auth import Access, Role
from control_plane.telemetry.assessment import Assessment, NamedRate, Treatment, ValueSummary
from control_plane.telemetry.assessments import Assessments, Group, Question
from firmware_bundles.sketches.fairness import ROWS_MIN, Gap
from firmware_bundles.sketches.intervals import Rate
from firmware_bundles.sketches.performance import LabelFree

_PAST_S_MAX: Final = 5 * 366 * 86_400.0

CohortFilter = Annotated[
    str | None, Query(max_length=63, description="Only this cohort's devices.")
]
FamilyFilter = Annotated[str | None, Query(max_length=31, description="Only this family's models.")]
DeviceFilter = Annotated[str | None, Query(max_length=63, description="Only this device.")]
RolloutFilter = Annotated[
    str | None, Query(max_length=63, description="Only this rollout's devices, by arm.")
]
PastS = Annotated[
    float, Query(ge=0, le=_PAST_S_MAX, description="Only what came in this time; 0 is all.")
]
ByDevice = Annotated[bool, Query(description="One answer for each device.")]


class ShareOf(BaseModel):
    """`k` of `n`, as a share with its interval; without rows the share is null."""

    name: str
    k: int
    n: int
    share: float | None
    low: float
    high: float


class Estimate(BaseModel):
    """The accuracy that calibrated confidences promise; not to be trusted while it drifts."""

    accuracy: float
    rows: int
    is_drifting: bool


class BusinessValue(BaseModel):
    """One business value in one segment, in its own unit; null where there is none yet."""

    name: str
    segment: str
    n: int
    mean: float
    deviation: float | None
    minimum: float
    maximum: float


class About(BaseModel):
    """Which model and devices: of an arm if a rollout was named, of one device if asked for."""

    family: str
    model: str
    version: str | None
    arm: str | None
    device_id: str | None


class ModelAccuracy(About):
    """What labels say about one model, and what it promises without them.

    `low` and `high` are a confidence sequence: it holds however often one looks.
    """

    devices: int
    labelled: int
    wrong: int
    accuracy: float | None
    low: float
    high: float
    segments: list[ShareOf]
    recall: list[ShareOf]
    precision: list[ShareOf]
    estimate: Estimate | None
    values: list[BusinessValue]


class Accuracy(BaseModel):
    """Accuracy by model. `pending` labels wait for their predictions."""

    models: list[ModelAccuracy]
    pending: int


class Difference(BaseModel):
    """Largest less smallest rate of the segments; those with too few rows are `suppressed`.

    Null with fewer than two segments that have enough.
    """

    rates: list[ShareOf]
    suppressed: list[str]
    difference: float | None
    ratio: float | None
    low: float | None
    high: float | None


class ModelFairness(About):
    """How one model treats segments, for the favourable class against the rest.

    `equalised_odds` is the larger difference of opportunity (true positives) and false positives.
    """

    favourable: str
    demographic_parity: Difference
    equal_opportunity: Difference
    false_positives: Difference
    equalised_odds: float | None


def router(access: Access, assessments: Assessments, pending: Callable[[], int]) -> APIRouter:
    """Return the routes; `pending` says how many labels wait for their predictions."""
    routes = APIRouter(
        prefix="/telemetry",
        tags=["telemetry"],
        dependencies=[Depends(access.require(Role.VIEWER))],
    )

    @routes.get("/accuracy")
    def accuracy(
        *,
        cohort: CohortFilter = None,
        family: FamilyFilter = None,
        device: DeviceFilter = None,
        rollout: RolloutFilter = None,
        past_s: PastS = 0.0,
        by_device: ByDevice = False,
    ) -> Accuracy:
        """Say how right models are by labels, what they promise, and what came of them."""
        question = Question(cohort, device, family, rollout, past_s, by_device)
        found = [_accuracy(*each) for each in assessments.accuracy(question)]
        return Accuracy(models=found, pending=pending())

    @routes.get("/fairness")
    def fairness(
        *,
        favourable: Annotated[str, Query(max_length=512, description="The class that is wanted.")],
        cohort: CohortFilter = None,
        family: FamilyFilter = None,
        device: DeviceFilter = None,
        rollout: RolloutFilter = None,
        past_s: PastS = 0.0,
        by_device: ByDevice = False,
        rows_min: Annotated[
            int, Query(ge=1, description="Fewer rows are not compared.")
        ] = ROWS_MIN,
    ) -> list[ModelFairness]:
        """Compare how models treat the segments of the traffic that their baselines declare."""
        question = Question(cohort, device, family, rollout, past_s, by_device)
        return [_fairness(*each) for each in assessments.fairness(question, favourable, rows_min)]

    return routes


def _accuracy(group: Group, found: Assessment) -> ModelAccuracy:
    return ModelAccuracy(
        **group._asdict(),
        devices=found.devices,
        labelled=found.labelled,
        wrong=found.wrong,
        accuracy=_known(found.accuracy.value),
        low=found.accuracy.low,
        high=found.accuracy.high,
        segments=_shares(found.segments),
        recall=_shares(found.recall),
        precision=_shares(found.precision),
        estimate=_estimate(found.estimate),
        values=[_value(each) for each in found.values],
    )


def _fairness(group: Group, found: Treatment) -> ModelFairness:
    return ModelFairness(
        **group._asdict(),
        favourable=found.favourable,
        demographic_parity=_difference(found.parity),
        equal_opportunity=_difference(found.opportunity),
        false_positives=_difference(found.false_positives),
        equalised_odds=_known(found.equalised_odds),
    )


def _difference(gap: Gap) -> Difference:
    return Difference(
        rates=[_share(name, rate) for name, rate in gap.rates.items()],
        suppressed=list(gap.suppressed),
        difference=_known(gap.difference),
        ratio=_known(gap.ratio),
        low=_known(gap.low),
        high=_known(gap.high),
    )


def _estimate(found: LabelFree | None) -> Estimate | None:
    return None if found is None else Estimate(**found._asdict())


def _value(found: ValueSummary) -> BusinessValue:
    return BusinessValue(**found._asdict() | {"deviation": _known(found.deviation)})


def _shares(rates: tuple[NamedRate, ...]) -> list[ShareOf]:
    return [_share(each.name, each.rate) for each in rates]


def _share(name: str, rate: Rate) -> ShareOf:
    return ShareOf(
        name=name, k=rate.k, n=rate.n, share=_known(rate.value), low=rate.low, high=rate.high
    )


def _known(value: float) -> float | None:
    return None if isnan(value) else value
