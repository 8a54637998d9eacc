"""Which cohorts and rollouts were made from files: what `shoal apply --prune` may remove."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from control_plane.api.auth import Access, Caller, Role
from control_plane.store.declarations import Declarations

SetName = Annotated[str, Path(max_length=63, pattern=r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$")]


class Declared(BaseModel):
    """One thing that was made from a file."""

    kind: Literal["cohort", "rollout"]
    name: Annotated[str, Field(min_length=1, max_length=63)]


class DeclaredSet(BaseModel):
    """All that a set of files made."""

    cohorts: list[str]
    rollouts: list[str]


def router(access: Access, declarations: Declarations, clock: Callable[[], float]) -> APIRouter:
    """Return the routes under /declarations."""
    operator = access.require(Role.OPERATOR)
    routes = APIRouter(prefix="/declarations", tags=["declarations"])

    def found(name: str) -> DeclaredSet:
        return DeclaredSet(
            cohorts=declarations.names(name, "cohort"),
            rollouts=declarations.names(name, "rollout"),
        )

    @routes.get("/{name}", dependencies=[Depends(access.require(Role.VIEWER))])
    def show(name: SetName) -> DeclaredSet:
        """Tell what a set of files made; nothing, if there is none of this name."""
        return found(name)

    @routes.post("/{name}")
    def note(
        name: SetName, made: Declared, caller: Annotated[Caller, Depends(operator)]
    ) -> DeclaredSet:
        """Note that something was made from a file of the set."""
        declarations.note(name, made.kind, made.name, clock(), caller.actor)
        return found(name)

    return routes
