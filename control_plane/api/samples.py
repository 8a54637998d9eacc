"""Samples over HTTP: how many there are, and they themselves, page by page.

Samples are what devices saw: whoever reads them is an operator, and the audit log says so.
"""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

import base64
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from control_plane.api.auth import Access, Caller, Role
from control_plane.store.samples import Place, Samples
from control_plane.telemetry.samples import PAGE_MAX, Labelled, LabelledSamples, Question
from firmware_bundles.errors import InputError

AfterText = Annotated[
    str | None, Query(max_length=200, description="`after` of the page before this one.")
]


class AskedSamples(BaseModel):
    """Which samples: those of a family that came from `since` on, and before `until` or now.

    Of one version if it is named, of a cohort's devices as they are now if one is named. The last
    minute is left out: what arrives in it may still be on its way into the database.
    """

    family: Annotated[str, Field(max_length=31)]
    version: Annotated[str | None, Field(max_length=63)] = None
    cohort: Annotated[str | None, Field(max_length=63)] = None
    since: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    until: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None


class SampleCount(BaseModel):
    """Samples of one model that are stored; `first` and `latest` are when they came."""

    family: str
    model: str
    version: str | None
    devices: int
    samples: int
    first: float
    latest: float


class SegmentOfSamples(BaseModel):
    """A segment as its device sent it, and labels by the number of the prediction."""

    device_id: str
    incarnation: str
    first: int
    last: int
    model: str
    rows: int
    started: float
    received: float
    body: str = Field(description="Base64 of the columns; see the reference of the wire.")
    labels: dict[int, int]


class ModelOfSamples(BaseModel):
    """What the numbers mean: names and sizes of the inputs in order, and the classes."""

    digest: str
    family: str
    version: str | None
    release: str | None
    inputs: list[tuple[str, int]]
    labels: list[str]


class PageOfSamples(BaseModel):
    """Segments in order of device, incarnation and number; `after` asks for the next page.

    Asked again with this `until`, the answer is the same for as long as nothing is deleted.
    """

    until: float
    segments: list[SegmentOfSamples]
    models: list[ModelOfSamples]
    after: str | None


def router(
    access: Access,
    samples: Samples,
    labelled: LabelledSamples,
    digest_of: Callable[[str, str], str],
    note: Callable[[str, str, str], None],
) -> APIRouter:
    """Return the routes below `/samples`.

    `digest_of` knows releases by family and version; `note` tells the audit log actor, action and
    subject.
    """
    routes = APIRouter(prefix="/samples", tags=["samples"])
    operator = access.require(Role.OPERATOR)

    @routes.get("", dependencies=[Depends(access.require(Role.VIEWER))])
    def counts() -> list[SampleCount]:
        """Count the samples that are stored, by model."""
        return [SampleCount(**each._asdict()) for each in samples.counts()]

    @routes.get("/rows")
    def rows(
        caller: Annotated[Caller, Depends(operator)],
        asked: Annotated[AskedSamples, Query()],
        after: AfterText = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_MAX,
    ) -> PageOfSamples:
        """Return a page of samples with their labels."""
        family, version = asked.family, asked.version
        digest = None if version is None else digest_of(family, version)
        query = labelled.query(Question(family, asked.since, asked.until, digest, asked.cohort))
        if after is None:
            note(caller.actor, "samples.read", f"family/{family}")
        page = labelled.page(query, _place(after), limit)
        return PageOfSamples(
            until=query.until,
            segments=[_segment(each) for each in page.segments],
            models=[ModelOfSamples(**each._asdict()) for each in page.models],
            after=None if page.after is None else "/".join(str(part) for part in page.after),
        )

    return routes


def _segment(found: Labelled) -> SegmentOfSamples:
    given = found.segment._asdict() | {"body": base64.b64encode(found.segment.body).decode()}
    del given["release"]
    return SegmentOfSamples(**given, labels=found.labels)


def _place(text: str | None) -> Place | None:
    if text is None:
        return None
    parts = text.split("/")
    if len(parts) != len(Place._fields) or not parts[2].isdecimal():
        raise InputError(f"{text!r:.80} is no place among samples; take `after` of a page")
    return Place(parts[0], parts[1], int(parts[2]))
