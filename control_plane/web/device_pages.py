"""The page of one device: read once, for a person who asks what is the matter with it."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from control_plane.api.auth import Access
from control_plane.web import rendering
from control_plane.web.device_view import DeviceReader
from control_plane.web.policy import HEADERS
from firmware_bundles.errors import NotAuthenticated, NotFound


def router(access: Access, reader: DeviceReader) -> APIRouter:
    """Return the routes below `/devices` of the page."""
    routes = APIRouter(prefix="/devices")

    @routes.get("/{device_id}")
    def show(device_id: str, request: Request) -> Response:
        """Show one device, or ask who is there."""
        try:
            caller = access.identify(request, None)
        except NotAuthenticated:
            return RedirectResponse("/login", 303, headers=HEADERS)
        try:
            shown = reader.read(device_id)
        except NotFound as error:
            text = rendering.page("missing.html", told=error.message)
            return HTMLResponse(text, 404, headers=HEADERS)
        text = rendering.page("device_page.html", caller=caller, shown=shown)
        return HTMLResponse(text, headers=HEADERS)

    return routes
