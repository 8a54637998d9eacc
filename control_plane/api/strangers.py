"""Devices that say hello under a certificate of ours and are not enrolled here."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from control_plane.api.auth import Access, Role
from control_plane.fleet.strangers import Strangers


class StrangerShown(BaseModel):
    """One of them; times are Unix seconds."""

    id: str
    first: float
    last: float
    hellos: int


class StrangerList(BaseModel):
    """All of them."""

    strangers: list[StrangerShown]


def router(access: Access, strangers: Strangers) -> APIRouter:
    """Return the route /strangers."""
    routes = APIRouter(tags=["devices"])

    @routes.get("/strangers", dependencies=[Depends(access.require(Role.VIEWER))])
    def list_strangers() -> StrangerList:
        """List devices that are refused because nothing is known of them, after a restore."""
        return StrangerList(
            strangers=[StrangerShown(**each._asdict()) for each in strangers.list()]
        )

    return routes
