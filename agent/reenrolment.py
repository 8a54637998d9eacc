"""Renewing the device's certificate: asked for over HTTPS, checked, and only then kept.

Runs in a task; heavy, and never imported by the core. When to renew stands here, who asks again
and again in `renewal`. The key stays the same: a power cut leaves either certificate, and both fit.
"""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
    pkcs7,
)

from agent import enrolment, tls, web_bodies
from agent import identity as identities
from agent.task_messages import Renewed
from firmware_bundles import durable
from firmware_bundles.errors import Malformed, ServerUnreachable, StateDamaged
from firmware_bundles.wire.enrolment import CA_CERTIFICATES_PATH, RENEWAL_PATH

if TYPE_CHECKING:
    from pathlib import Path

    from agent.identity import Identity

_TIMEOUT_S: Final = 15.0
_ANSWER_BYTES_MAX: Final = 64 * 1024
_SHARE_OF_LIFE: Final = 2 / 3


class _Present(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def expires(self) -> float:
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def due(self) -> float:
        begun = self.certificate.not_valid_before_utc.timestamp()
        return begun + (self.expires - begun) * _SHARE_OF_LIFE


def renew(state_dir: Path, now: float, key_file: Path | None = None) -> Renewed:
    """Renew the certificate if two thirds of its life are over; say when that is.

    The key is read and never written, wherever it is kept.

    Raises ServerUnreachable, EnrolmentRefused, Malformed, StateDamaged, OSError.
    """
    identity = identities.load(state_dir, key_file)
    present = _load(identity)
    if now < present.due:
        return Renewed(is_new=False, due=present.due, expires=present.expires)
    chain = _ask(identity, present, now)
    pem = b"".join(each.public_bytes(Encoding.PEM) for each in chain)
    path = identity.directory / identities.CERTIFICATE
    durable.write(path, pem, mode=identities.MODES[identities.CERTIFICATE])
    kept = _Present(chain[0], present.key)
    return Renewed(is_new=True, due=kept.due, expires=kept.expires)


def _load(identity: Identity) -> _Present:
    try:
        certificate = x509.load_pem_x509_certificate(
            (identity.directory / identities.CERTIFICATE).read_bytes()
        )
        key = load_pem_private_key(identity.key_path.read_bytes(), None)
    except enrolment.UNREADABLE as error:
        raise StateDamaged(f"the identity cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StateDamaged(f"{identity.key_path} is no P-256 key")
    return _Present(certificate, key)


def _ask(identity: Identity, present: _Present, now: float) -> list[x509.Certificate]:
    """Return the new certificate and those between it and the root, checked."""
    is_shown = now < present.expires
    request = enrolment.signing_request(present.key, identity.device).public_bytes(Encoding.DER)
    try:
        with httpx.Client(
            base_url=identity.server,
            verify=_tls(identity, now, is_shown=is_shown),
            timeout=_TIMEOUT_S,
            trust_env=False,
            headers={"Content-Type": "application/pkcs10", **web_bodies.AS_IT_IS},
        ) as client:
            authorities = _certificates(client, "GET", CA_CERTIFICATES_PATH)
            issued = _certificates(client, "POST", RENEWAL_PATH, base64.encodebytes(request))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ServerUnreachable(f"{identity.server} did not answer: {error}") from error
    roots = _roots(identity)
    certificate = own_certificate(issued, identity.device, present.key)
    for between in authorities:
        if _is_issued(certificate, between) and any(_is_issued(between, root) for root in roots):
            return [certificate, *([between] if between not in roots else [])]
    raise Malformed("the server sent a certificate of an authority that is not ours")


def _tls(identity: Identity, now: float, *, is_shown: bool) -> ssl.SSLContext:
    """Return the context of the connection; an expired certificate would end it, so none then."""
    context = ssl.create_default_context(cafile=identity.directory / identities.CA)
    if is_shown:
        context.load_cert_chain(identity.directory / identities.CERTIFICATE, identity.key_path)
    return tls.hold_against(context, lambda: now)


def _certificates(
    client: httpx.Client, method: str, path: str, content: bytes | None = None
) -> list[x509.Certificate]:
    with client.stream(method, path, content=content) as response:
        body = web_bodies.read(response, _ANSWER_BYTES_MAX, _TIMEOUT_S)
    if response.is_server_error:
        raise ServerUnreachable(f"{response.url} answered with status {response.status_code}")
    if not response.is_success:
        raise enrolment.refusal(response.status_code, body)
    return parse_certificates(body)


def parse_certificates(body: bytes) -> list[x509.Certificate]:
    """Read the certificates of an EST answer (RFC 7030, section 4.1.3). Raises Malformed."""
    if len(body) > _ANSWER_BYTES_MAX:
        raise Malformed(f"the server answered more than {_ANSWER_BYTES_MAX} bytes")
    try:
        data = base64.b64decode(b"".join(body.split()), validate=True)
        return list(pkcs7.load_der_pkcs7_certificates(data))
    except enrolment.UNREADABLE as error:
        raise Malformed(f"the server answered with no certificates: {error}") from error


def own_certificate(
    issued: list[x509.Certificate], device: str, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """Return the certificate that is for this name and key. Raises Malformed."""
    try:
        for certificate in issued:
            if enrolment.is_for(certificate, device, key):
                return certificate
    except enrolment.UNREADABLE as error:
        raise Malformed(f"the server sent a certificate that cannot be read: {error}") from error
    raise Malformed("the server sent a certificate of another device")


def _roots(identity: Identity) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates((identity.directory / identities.CA).read_bytes())
    except ValueError as error:
        raise StateDamaged(f"{identities.CA} cannot be read: {error}") from error


def _is_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*enrolment.UNREADABLE, InvalidSignature):
        return False
    return True
