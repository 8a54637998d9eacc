"""Enrolment: operators invite, devices redeem. The second needs no role: its token is its right."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from control_plane.api.auth import Access, Caller, Role
from control_plane.fleet import enrolment as domain
from firmware_bundles.errors import Malformed
from firmware_bundles.wire.enrolment import PATH, Enrolment, EnrolmentRequest


class NewInvitation(BaseModel):
    """For whom a token is: one named device, or any that shall carry these labels."""

    device: str | None = None
    labels: dict[str, str] = {}
    uses: Annotated[int, Field(ge=1, le=domain.USES_MAX)] = 1
    life_s: Annotated[float, Field(gt=0, le=domain.LIFE_S_MAX)] = domain.LIFE_S_DEFAULT


class Invitation(BaseModel):
    """What a device needs to enrol itself; the token is told only here."""

    token: str
    expires: float
    server: str
    ca: str


def router(
    access: Access,
    enrolments: domain.Enrolments,
    *,
    ca_pem: bytes,
    server_url: str,
) -> APIRouter:
    """Return the routes /enrolment-tokens and /enrol."""
    operator = access.require(Role.OPERATOR)
    routes = APIRouter(tags=["enrolment"])

    @routes.post("/enrolment-tokens", status_code=201)
    def invite(new: NewInvitation, caller: Annotated[Caller, Depends(operator)]) -> Invitation:
        """Make an enrolment token."""
        token, expires = enrolments.invite(
            device=new.device,
            device_labels=new.labels,
            uses=new.uses,
            life_s=new.life_s,
            created_by=caller.actor,
        )
        return Invitation(token=token, expires=expires, server=server_url, ca=ca_pem.decode())

    @routes.post(
        PATH.removeprefix("/api/v1"),
        openapi_extra={"requestBody": _json(EnrolmentRequest)},
        responses={200: {"content": _json(Enrolment)["content"]}},
    )
    async def enrol(request: Request) -> Response:
        """Redeem an enrolment token for a certificate."""
        wanted = parse(await request.body())
        given = await run_in_threadpool(enrolments.enrol, wanted)
        return Response(msgspec.json.encode(given), media_type="application/json")

    return routes


def parse(body: bytes) -> EnrolmentRequest:
    """Read what a device sent. Raises Malformed."""
    try:
        return msgspec.json.decode(body, type=EnrolmentRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the enrolment request cannot be read: {error}") from error


def _json(kind: type[msgspec.Struct]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components([kind])
    return {"content": {"application/json": {"schema": components[kind.__name__]}}}
