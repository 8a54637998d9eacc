"""Renewal in the shape of EST (RFC 7030): `cacerts` and `simplereenroll`.

Bodies are Base64, as that standard has them. A certificate that the client shows by TLS is verified
by the listener; the request's own signature is what counts (see `fleet.renewal`), for a certificate
that has expired cannot be shown.
"""

import base64
import binascii
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from control_plane.fleet import certificates
from control_plane.fleet.renewal import Renewals
from firmware_bundles.errors import Malformed
from firmware_bundles.wire.enrolment import CA_CERTIFICATES_PATH, CSR_CHARS_MAX, RENEWAL_PATH

_CERTIFICATES_ONLY: Final = "application/pkcs7-mime; smime-type=certs-only"


def router(renewals: Renewals, *, chain_pem: bytes) -> APIRouter:
    """Return the routes under /.well-known/est; `chain_pem` is root and issuing certificate."""
    routes = APIRouter(tags=["enrolment"])
    authorities = x509.load_pem_x509_certificates(chain_pem)

    @routes.get(CA_CERTIFICATES_PATH)
    def ca_certificates() -> Response:
        """Return the certificates of the authorities (RFC 7030, section 4.1)."""
        return _answer(authorities)

    @routes.post(RENEWAL_PATH)
    async def renew(request: Request) -> Response:
        """Return a new certificate for a device that is known (RFC 7030, section 4.2.2)."""
        wanted = decode(await request.body())
        given = await run_in_threadpool(renewals.renew, wanted, shown(request))
        # The standard wants the new certificate alone; who issued it stands in cacerts.
        return _answer(x509.load_pem_x509_certificates(given.encode())[:1])

    return routes


def decode(body: bytes) -> bytes:
    """Return the signing request of a body. Raises Malformed."""
    if len(body) > CSR_CHARS_MAX:
        raise Malformed(f"a signing request of {len(body)} characters is too long")
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise Malformed(f"the signing request is no Base64: {error}") from error


def shown(request: Request) -> str | None:
    """Return the name on the certificate that the client showed by TLS, if it showed one.

    It is where the TLS extension of ASGI puts it.
    """
    chain = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain")
    if not chain:
        return None
    return certificates.common_name(x509.load_pem_x509_certificate(chain[0].encode()))


def _answer(found: list[x509.Certificate]) -> Response:
    body = base64.encodebytes(pkcs7.serialize_certificates(found, Encoding.DER))
    return Response(body, media_type=_CERTIFICATES_ONLY)
