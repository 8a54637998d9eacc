"""The page of one rollout: what it shows, its part that follows the fleet, and its buttons.

A button is a form: it works without scripts. Its session comes from a cookie that no other site's
page sends, and the browser has to say that the form is ours.
"""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from control_plane.api import problems
from control_plane.api.auth import Access, Caller
from control_plane.rollouts.spec import PHASES_MAX
from control_plane.web import rendering
from control_plane.web.policy import HEADERS
from control_plane.web.rollout_view import RolloutReader
from firmware_bundles.errors import NotAuthenticated, NotFound, ShoalError

_POLL: Final = "every 2s"
_WHOLE: Final = "rollout_page.html"


def router(access: Access, reader: RolloutReader) -> APIRouter:
    """Return the routes below `/rollouts` of the page."""
    routes = APIRouter(prefix="/rollouts")

    @routes.get("/{rollout_id}")
    def show(
        rollout_id: str,
        request: Request,
        forecast: Annotated[bool, Query(description="Simulate it")] = False,  # noqa: FBT002 a query
    ) -> Response:
        """Show one rollout, or ask who is there."""
        return _as_known(
            access,
            request,
            lambda caller: _page(reader, rollout_id, caller, _WHOLE, is_forecast=forecast),
        )

    @routes.get("/{rollout_id}/part")
    def follow(rollout_id: str, request: Request) -> Response:
        """Return what changes on the page of a rollout."""
        return _as_known(
            access, request, lambda caller: _page(reader, rollout_id, caller, "rollout_part.html")
        )

    @routes.post("/{rollout_id}/{verb}")
    def act(
        rollout_id: str,
        verb: str,
        request: Request,
        phase: Annotated[int | None, Query(ge=0, lt=PHASES_MAX)] = None,
    ) -> Response:
        """Do what a button says, and show the rollout again."""

        def do(caller: Caller) -> Response:
            try:
                reader.act(rollout_id, verb, caller, phase)
            except NotFound:
                raise
            except ShoalError as error:
                status = int(problems.status_of(error))
                refusal = f"{error.message}. {error.hint}" if error.hint else error.message
                return _page(reader, rollout_id, caller, _WHOLE, refusal=refusal, status=status)
            return RedirectResponse(f"/rollouts/{quote(rollout_id)}", 303, headers=HEADERS)

        return _as_known(access, request, do, is_form=True)

    return routes


def _as_known(
    access: Access,
    request: Request,
    answer: Callable[[Caller], Response],
    *,
    is_form: bool = False,
) -> Response:
    """Answer who is logged in; lead others to the login, and say so where nothing is found."""
    try:
        if is_form:
            _check_own(request)
        caller = access.identify(request, None)
    except NotAuthenticated:
        return RedirectResponse("/login", 303, headers=HEADERS)
    try:
        return answer(caller)
    except NotFound as error:
        return _html(rendering.page("missing.html", told=error.message), 404)


def _page(
    reader: RolloutReader,
    rollout_id: str,
    caller: Caller,
    name: str,
    *,
    refusal: str = "",
    status: int = 200,
    is_forecast: bool = False,
) -> Response:
    shown = reader.read(rollout_id, caller)
    outlook = None
    if name == _WHOLE:
        outlook = reader.outlook(shown, caller, is_forecast=is_forecast)
    values = {
        "caller": caller,
        "shown": shown,
        "outlook": outlook,
        "refusal": refusal,
        "poll": _POLL,
    }
    return _html(rendering.page(name, **values), status)


def _check_own(request: Request) -> None:
    """Refuse a form that the browser does not say is ours. Raises NotAuthenticated."""
    origin = request.headers.get("origin")
    if origin is None or urlsplit(origin).netloc != request.headers.get("host"):
        raise NotAuthenticated("this form came from another site")


def _html(text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(text, status, headers=HEADERS)
