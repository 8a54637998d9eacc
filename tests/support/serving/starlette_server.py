"""Starlette on uvicorn with httptools and uvloop: python starlette_server.py MODEL SOCKET."""

from __future__ import annotations

import sys

import uvicorn
from digits_model import Model  # type: ignore[import-not-found]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

model = Model(sys.argv[1])


async def infer(request: Request) -> JSONResponse:
    """Answer one request."""
    return JSONResponse(model.answer(await request.json()))


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v2/models/digits/infer", infer, methods=["POST"])])
    uvicorn.run(
        app, uds=sys.argv[2], http="httptools", loop="uvloop", access_log=False, log_level="error"
    )
