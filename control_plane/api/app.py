"""The HTTP application: the routers it is given, problems for refusals, a limit for bodies.

What each router does stands in the modules beside this one; who gives them what they need is the
composition root's affair.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect

from control_plane.api import problems
from firmware_bundles.errors import MessageTooLarge

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

API_PREFIX: Final = "/api/v1"
BODY_BYTES_MAX: Final = 1024 * 1024
_DESCRIPTION: Final = (
    "Devices, cohorts, releases, rollouts and telemetry of a fleet. Authenticate with "
    "`Authorization: Bearer shoal_...`. "
    "Refusals are `application/problem+json` with a stable `code`."
)


def create(version: str, *, api: Iterable[APIRouter], pages: Iterable[APIRouter] = ()) -> FastAPI:
    """Return the application: `api` under /api/v1, `pages` for browsers at the root."""
    app = FastAPI(
        title="shoal",
        version=version,
        description=_DESCRIPTION,
        openapi_url=f"{API_PREFIX}/openapi.json",
        docs_url=None,  # that page loads its scripts from another site
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(BodyLimit)
    app.add_api_route("/healthz", _health, methods=["GET"], summary="Whether the process answers")
    for router in api:
        app.include_router(router, prefix=API_PREFIX)
    for router in pages:
        app.include_router(router, include_in_schema=False)
    return app


async def _health() -> dict[str, str]:
    return {"status": "ok"}


class BodyLimit:
    """Reads each body to its end before anybody acts on it, and refuses one that is too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3.0)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await _read(receive)
        except ClientDisconnect:
            return  # half a body is no request
        if body is None:
            refusal = problems.response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                MessageTooLarge.code,
                f"the body is larger than {BODY_BYTES_MAX} bytes",
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)


async def _read(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        total += len(part)
        if total > BODY_BYTES_MAX:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
