"""The broker's settings, for who runs a broker of their own."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from control_plane.api.auth import Access, Role
from control_plane.broker import acl, mosquitto
from control_plane.broker.endpoint import TLS_PORT_DEFAULT

_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 the broker of a fleet
_PORT_MAX: Final = 65_535


class BrokerFiles(BaseModel):
    """Files of a mosquitto by name, and what any other broker must keep."""

    files: dict[str, str]
    rules: list[str]


def router(access: Access, *, ca_pem: bytes) -> APIRouter:
    """Return the route /broker/config; `ca_pem` is root and issuing certificate."""
    routes = APIRouter(prefix="/broker", tags=["broker"])

    @routes.get("/config", dependencies=[Depends(access.require(Role.OPERATOR))])
    def config(
        host: Annotated[str, Query(pattern=r"^[0-9A-Za-z.:-]+$")] = _EVERYWHERE,
        port: Annotated[int, Query(ge=1, le=_PORT_MAX)] = TLS_PORT_DEFAULT,
    ) -> BrokerFiles:
        """Return what an external mosquitto needs; its own certificate and key are not in it."""
        files = {
            "mosquitto.conf": mosquitto.configuration(host, port),
            "acl": acl.text(),
            "ca.pem": ca_pem.decode(),
        }
        return BrokerFiles(files=files, rules=acl.rules())

    return routes
