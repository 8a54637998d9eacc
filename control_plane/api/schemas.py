"""The forms of the files that people write, for editors and checks of their own."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from typing import Any

from fastapi import APIRouter, Depends

from control_plane.api.auth import Access, Role
from control_plane.rollouts.schema import json_schema


def router(access: Access) -> APIRouter:
    """Return the routes below `/schemas`."""
    viewer = access.require(Role.VIEWER)
    routes = APIRouter(prefix="/schemas", tags=["schemas"], dependencies=[Depends(viewer)])

    @routes.get("/rollout")
    def rollout() -> dict[str, Any]:
        """Show the JSON Schema of rollout files."""
        return json_schema()

    return routes
