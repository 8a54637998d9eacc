"""What this control plane is: its version and how its devices are reached."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from control_plane.api.auth import Access, Role


class Status(BaseModel):
    """The running service; `broker` is mosquitto, amqtt or external."""

    version: str
    broker: str
    broker_url: str


def router(access: Access, status: Status) -> APIRouter:
    """Return the route /status."""
    routes = APIRouter(tags=["status"])

    @routes.get("/status", dependencies=[Depends(access.require(Role.VIEWER))])
    async def show() -> Status:
        """Show version and broker."""
        return status

    return routes
