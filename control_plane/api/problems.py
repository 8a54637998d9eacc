"""Refusals as `application/problem+json` (RFC 9457), with the project's stable codes.

A body has `type`, `title`, `status`, `detail` (the sentence), `code` and, where there is one,
`hint`. Nothing of an unexpected error but its occurrence leaves the process: the log has the rest.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from firmware_bundles.errors import (
    AccessError,
    BundleError,
    ConflictError,
    EnrolmentRefused,
    InputError,
    NotAuthenticated,
    NotFound,
    ShoalError,
    TransferError,
    TrustError,
    WireError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG: Final = logging.getLogger(__name__)
MEDIA_TYPE: Final = "application/problem+json"

# The first class that fits decides; what fits none is this side's fault.
_STATUSES: Final[tuple[tuple[type[ShoalError], HTTPStatus], ...]] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NotAuthenticated, HTTPStatus.UNAUTHORIZED),
    (EnrolmentRefused, HTTPStatus.FORBIDDEN),
    (AccessError, HTTPStatus.FORBIDDEN),
    (ConflictError, HTTPStatus.CONFLICT),
    (TrustError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (BundleError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (WireError, HTTPStatus.BAD_REQUEST),
    (TransferError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_CODES: Final = {
    HTTPStatus.NOT_FOUND: "input.not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "input.method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "wire.too_large",
}


def status_of(error: ShoalError) -> HTTPStatus:
    """Return the HTTP status that an error is told with."""
    fitting = (status for kind, status in _STATUSES if isinstance(error, kind))
    return next(fitting, HTTPStatus.INTERNAL_SERVER_ERROR)


def response(status: HTTPStatus, code: str, detail: str, hint: str = "") -> JSONResponse:
    """Return the answer that tells a refusal."""
    body = {
        "type": f"urn:shoal:problem:{code}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
    }
    challenge = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return JSONResponse(
        body | ({"hint": hint} if hint else {}), status, headers=challenge, media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Make `app` tell every refusal as a problem."""
    app.add_exception_handler(ShoalError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)


async def _on_refusal(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ShoalError)
    return response(status_of(error), error.code, error.message, error.hint)


async def _on_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    detail = "; ".join(_place(each) for each in error.errors()[:5])
    return response(HTTPStatus.UNPROCESSABLE_ENTITY, InputError.code, detail)


def _place(found: dict[str, Any]) -> str:
    location: Sequence[object] = found.get("loc", ())
    return f"{'.'.join(str(part) for part in location)}: {found.get('msg', 'is not valid')}"


async def _on_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return response(status, _CODES.get(status, "input.invalid"), str(error.detail))


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    _LOG.error("request failed method=%s path=%s", request.method, request.url.path, exc_info=error)
    return response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        ShoalError.code,
        "the control plane could not answer this request",
        "Its log says why.",
    )
