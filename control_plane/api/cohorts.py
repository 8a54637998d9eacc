"""Cohorts: named selectors with the number of devices that they match now."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from control_plane.api.auth import Access, Caller, Role
from control_plane.fleet import cohorts as domain
from control_plane.fleet import selectors
from control_plane.fleet.selectors import LISTED_MAX, SELECTOR_CHARS_MAX


class Meaning(BaseModel):
    """What a cohort stands for: a selector over labels and facts, or a list of devices."""

    selector: Annotated[
        str, Field(max_length=SELECTOR_CHARS_MAX, examples=["site=berlin,line in (a, b)"])
    ] = ""
    listed: Annotated[list[str] | None, Field(max_length=LISTED_MAX)] = None


class NewCohort(Meaning):
    """A name and what it stands for."""

    name: Annotated[str, Field(max_length=63, examples=["berlin"])]


class Cohort(NewCohort):
    """A cohort now, and how many devices belong to it."""

    created: float
    devices: int


class CohortList(BaseModel):
    """All cohorts."""

    cohorts: list[Cohort]


class Match(BaseModel):
    """What a selector would match: how many devices, and some of them."""

    devices: int
    examples: list[str]


class Runtime(BaseModel):
    """What `devices` devices offer, `example` among them; nothing where it is not known."""

    runtime: str
    operations: dict[str, int]
    memory_bytes: int
    accelerators: list[str] | None = None
    speed_class: int | None = None
    devices: int
    example: str


class RuntimeList(BaseModel):
    """Devices by what they offer to a model."""

    runtimes: list[Runtime]


def router(access: Access, cohorts: domain.Cohorts) -> APIRouter:
    """Return the routes under /cohorts."""
    viewer, operator = Depends(access.require(Role.VIEWER)), access.require(Role.OPERATOR)
    routes = APIRouter(prefix="/cohorts", tags=["cohorts"])

    @routes.post("", status_code=201)
    def create_cohort(new: NewCohort, caller: Annotated[Caller, Depends(operator)]) -> Cohort:
        """Name a selector or a list of devices."""
        made = cohorts.create(new.name, new.selector, caller.actor, listed=new.listed)
        return _shown(made)

    @routes.put("/{name}")
    def put_cohort(
        name: str, wanted: Meaning, caller: Annotated[Caller, Depends(operator)]
    ) -> Cohort:
        """Make a cohort stand for this, whether there is one of this name or not."""
        return _shown(cohorts.put(name, wanted.selector, caller.actor, listed=wanted.listed))

    @routes.delete("/{name}")
    def delete_cohort(name: str, caller: Annotated[Caller, Depends(operator)]) -> dict[str, str]:
        """Forget a cohort that no open rollout goes by."""
        cohorts.delete(name, caller.actor)
        return {"deleted": name}

    @routes.get("", dependencies=[viewer])
    def list_cohorts() -> CohortList:
        """List all cohorts by name."""
        return CohortList(cohorts=[_shown(each) for each in cohorts.all()])

    @routes.get("/{name}", dependencies=[viewer])
    def show_cohort(name: str) -> Cohort:
        """Show one cohort."""
        return _shown(cohorts.get(name))

    @routes.post("/runtimes", dependencies=[viewer])
    def list_runtimes(selector: str = "") -> RuntimeList:
        """Count the devices that a selector matches, by what they offer to a model."""
        kinds = cohorts.kinds(selectors.parse(selector))
        return RuntimeList(runtimes=[_offered(each) for each in kinds])

    @routes.post("/match", dependencies=[viewer])
    def match_selector(selector: str = "") -> Match:
        """Count the devices that a selector matches, without naming it."""
        return Match.model_validate(cohorts.preview(selectors.parse(selector))._asdict())

    return routes


def _offered(kind: domain.Kind) -> Runtime:
    offered = kind.capabilities
    return Runtime(
        runtime=offered.runtime,
        operations=dict(offered.operations),
        memory_bytes=offered.memory_bytes,
        accelerators=None if offered.accelerators is None else list(offered.accelerators),
        speed_class=offered.speed_class,
        devices=kind.devices,
        example=kind.example,
    )


def _shown(cohort: domain.Cohort) -> Cohort:
    return Cohort.model_validate(cohort._asdict())
