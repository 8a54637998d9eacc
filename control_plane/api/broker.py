"""The broker: how it stands, and what is needed by who runs one of their own."""

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from control_plane.api.auth import Access, Caller, Role
from control_plane.broker import acl, mosquitto
from control_plane.broker.endpoint import TLS_PORT_DEFAULT
from control_plane.fleet import certificates
from control_plane.fleet.authority import Authority

_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 the broker of a fleet
_PORT_MAX: Final = 65_535
_REQUEST_CHARS_MAX: Final = 8 * 1024
_NAMES_MAX: Final = 16
_HOST: Final = r"^[0-9A-Za-z.:-]+$"
_HOST_CHARS_MAX: Final = 253


class BrokerStanding(BaseModel):
    """The broker as the control plane knows it; times are Unix seconds.

    `left_out_*` are chunks beyond `retained_bytes_max`: devices fetch them over HTTPS. `list_*` is
    the list of revoked certificates that the broker was given last. `refused` counts, since the
    start, what was said to us and refused, by code; `dropped` what found no room.
    """

    name: str
    url: str
    is_connected: bool
    retained_bytes_max: int
    retained_bytes: int
    retained_chunks: int
    left_out_bytes: int
    left_out_chunks: int
    list_given: float
    list_ends: float
    list_is_late: bool
    refused: dict[str, int]
    dropped: int


class BrokerFiles(BaseModel):
    """Files of a mosquitto by name, and what any other broker must keep."""

    files: dict[str, str]
    rules: list[str]


class CertificateRequest(BaseModel):
    """A signing request (PEM) of a broker, and the names and addresses that it is reached under."""

    csr: Annotated[str, Field(max_length=_REQUEST_CHARS_MAX)]
    names: Annotated[
        list[Annotated[str, Field(pattern=_HOST, max_length=_HOST_CHARS_MAX)]],
        Field(min_length=1, max_length=_NAMES_MAX),
    ]


class BrokerCertificate(BaseModel):
    """The certificate and its issuer's (PEM)."""

    certificate: str


def router(
    access: Access,
    authority: Authority,
    *,
    standing: Callable[[], BrokerStanding],
    revoked: Callable[[], bytes],
    note: Callable[[str, str, str], None] = lambda *_: None,
) -> APIRouter:
    """Return the routes /broker; `revoked` makes a list of revoked certificates of now.

    `note` tells the audit log actor, action and subject of what is in no database.
    """
    routes = APIRouter(prefix="/broker", tags=["broker"])

    @routes.get("", dependencies=[Depends(access.require(Role.VIEWER))])
    def show() -> BrokerStanding:
        """Show how the broker stands, and what it does not retain."""
        return standing()

    @routes.get("/config", dependencies=[Depends(access.require(Role.OPERATOR))])
    def config(
        host: Annotated[str, Query(pattern=_HOST)] = _EVERYWHERE,
        port: Annotated[int, Query(ge=1, le=_PORT_MAX)] = TLS_PORT_DEFAULT,
    ) -> BrokerFiles:
        """Return what an external mosquitto needs; its own certificate and key are not in it."""
        files = {
            "mosquitto.conf": mosquitto.configuration(host, port),
            "acl": acl.text(),
            "ca.pem": authority.chain_pem.decode(),
            "crl.pem": revoked().decode(),
        }
        return BrokerFiles(files=files, rules=acl.rules())

    @routes.post("/certificate")
    def certify(
        body: CertificateRequest, caller: Annotated[Caller, Depends(access.require(Role.ADMIN))]
    ) -> BrokerCertificate:
        """Certify a broker under the given names: devices trust this fleet's authority alone.

        The subject of the request is ignored.
        """
        request = certificates.parse_request(body.csr.encode())
        note(caller.actor, "broker.certified", f"broker/{','.join(body.names)}")
        made = authority.certify_server(certificates.key_of(request), body.names)
        return BrokerCertificate(certificate=made.decode())

    return routes
