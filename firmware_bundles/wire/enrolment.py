"""What a device and the control plane say to each other over HTTPS when the device is enrolled.

`POST /api/v1/enrol` takes an `EnrolmentRequest` and answers an `Enrolment`, both as JSON. The
one-use token is the only credential of the request; the signing request proves that the device
holds its key. Renewal later has the shape of EST (RFC 7030).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from firmware_bundles.identifiers import DeviceId
from firmware_bundles.wire.messages import Facts, Text

PATH: Final = "/api/v1/enrol"
CA_CERTIFICATES_PATH: Final = "/.well-known/est/cacerts"
RENEWAL_PATH: Final = "/.well-known/est/simplereenroll"
CSR_CHARS_MAX: Final = 4096
TELEMETRY_SECRET_BYTES: Final = 32


class EnrolmentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a device certificate.

    `device` is a wish: it is followed only where the token leaves the name open.
    """

    token: Annotated[str, Meta(min_length=1, max_length=256)]
    csr: Annotated[str, Meta(min_length=1, max_length=CSR_CHARS_MAX)]
    device: DeviceId | None = None
    agent_version: Text = ""
    inventory: Facts = msgspec.field(default_factory=dict)


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """All that makes a device a member of the fleet.

    `certificate` and `ca` are PEM, `root` is the trusted root metadata of the models repository
    byte for byte, `broker` a URL (`mqtts://host:port` with the certificate, `mqtt://` on loopback
    only). `former_roots` are those before it: to a device that knows one of them they show that
    `root` follows from it.
    """

    device: DeviceId
    certificate: str
    ca: str
    root: bytes
    broker: str
    telemetry_secret: bytes
    former_roots: tuple[bytes, ...] = ()
