"""Requests to an application without a server: the whole ASGI path, no socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import httpx

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class AppTransport(httpx.BaseTransport):
    """Carries each request into `app` in an event loop of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._inner = httpx.ASGITransport(app=app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the application's answer, read to its end."""
        return asyncio.run(self._ask(request))

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        parts = [part async for part in cast("httpx.AsyncByteStream", answer.stream)]
        return httpx.Response(answer.status_code, headers=answer.headers, content=b"".join(parts))
