"""The routes that a browser asks for: the page behind a login, and its files.

The page works without any other server, and its policy forbids scripts and styles in the text.
"""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from control_plane.api.auth import SESSION_COOKIE, SESSION_S, Access
from control_plane.api.events import Feed
from control_plane.web import device_pages, rendering, rollout_pages, static_files
from control_plane.web.device_view import DeviceReader
from control_plane.web.policy import HEADERS
from control_plane.web.rollout_view import RolloutReader
from control_plane.web.snapshot import Reader, Snapshot
from firmware_bundles.errors import NotAuthenticated

_TOKEN_CHARS_MAX: Final = 256


def make_feed(reader: Reader) -> Feed:
    """Return the feed that keeps open pages up to date."""
    return Feed(lambda: rendering.messages(reader.read()))


def router(
    access: Access,
    reader: Reader,
    rollouts: RolloutReader,
    devices: DeviceReader,
    events_path: str,
) -> APIRouter:
    """Return the browser's routes. `events_path` is where the feed is served."""
    routes = APIRouter()
    routes.include_router(rollout_pages.router(access, rollouts))
    routes.include_router(device_pages.router(access, devices))
    _add_page(routes, access, reader.read, events_path)
    _add_login(routes, access)
    _add_files(routes)
    return routes


def _add_page(
    routes: APIRouter, access: Access, read: Callable[[], Snapshot], events_path: str
) -> None:
    @routes.get("/")
    def show(request: Request) -> Response:
        """Show the fleet, or ask who is there."""
        try:
            caller = access.identify(request, None)
        except NotAuthenticated:
            return RedirectResponse("/login", 303, headers=HEADERS)
        return _html(
            rendering.page(
                "page.html",
                caller=caller,
                shown=read(),
                parts=rendering.PARTS,
                events_path=events_path,
            )
        )


def _add_login(routes: APIRouter, access: Access) -> None:
    @routes.get("/login")
    def ask() -> Response:
        """Ask for a token."""
        return _html(rendering.page("login.html", refusal=None))

    @routes.post("/login")
    def log_in(
        request: Request, token: Annotated[str, Form(max_length=_TOKEN_CHARS_MAX)] = ""
    ) -> Response:
        """Open a session for the holder of a token."""
        try:
            _check_origin(request)
            session = access.open_session(token.strip())
        except NotAuthenticated as error:
            return _html(rendering.page("login.html", refusal=error.message), 401)
        answer = RedirectResponse("/", 303, headers=HEADERS)
        answer.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @routes.post("/logout")
    def log_out(request: Request) -> Response:
        """Forget the session in this browser."""
        answer = RedirectResponse("/login", 303, headers=HEADERS)
        try:
            _check_origin(request)
        except NotAuthenticated:
            return answer
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return answer


def _add_files(routes: APIRouter) -> None:
    known = static_files.read_all()

    @routes.get("/static/{name:path}")
    def read_file(name: str, request: Request) -> Response:
        """Return one of the page's files."""
        found = known.get(name)
        if found is None:
            return Response("there is no such file", 404, headers=HEADERS)
        headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": found.tag}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.data, headers=headers, media_type=found.media_type)


def _check_origin(request: Request) -> None:
    """Refuse a form that another site's page sent. Raises NotAuthenticated."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise NotAuthenticated("this form came from another site")


def _html(text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(text, status, headers=HEADERS)
