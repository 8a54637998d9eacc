"""What each kind of certificate says: root, issuing authority, server, service, device. Pure.

P-256 throughout, as every TLS stack of the fleet knows it. Keys and files are `authority`'s; who
may have a certificate, and under which name, is decided in `enrolment`.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firmware_bundles import limits
from firmware_bundles.errors import EnrolmentRefused, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.x509.oid import ObjectIdentifier

CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
ROOT_NAME: Final = "shoal fleet root"
ISSUING_NAME: Final = "shoal fleet issuing"
ROOT_LIFE_S: Final = 20 * 365 * 86_400
ISSUING_LIFE_S: Final = 5 * 365 * 86_400
LIST_LIFE_S: Final = 30 * 86_400
_BACKDATED: Final = timedelta(seconds=limits.CLOCK_SKEW_S_MAX)
_CSR_HINT: Final = "Make the request anew with a P-256 key."


class Issuer(NamedTuple):
    """A certificate authority: its certificate, and the key that signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def root(key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    """Return the self-signed root, under which one level of authorities may stand."""
    name = _name(ROOT_NAME)
    return (
        _builder(key.public_key(), name, name, now, ROOT_LIFE_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def issuing(under: Issuer, public_key: ec.EllipticCurvePublicKey, now: float) -> x509.Certificate:
    """Return the certificate of the authority that does the daily work."""
    return (
        _builder(public_key, _name(ISSUING_NAME), under.certificate.subject, now, ISSUING_LIFE_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(_issued_by(under), critical=False)
        .sign(under.key, hashes.SHA256())
    )


def leaf(
    under: Issuer,
    public_key: ec.EllipticCurvePublicKey,
    common_name: str,
    *,
    usage: ObjectIdentifier,
    now: float,
    life_s: float,
    names: Iterable[str] = (),
) -> x509.Certificate:
    """Return a certificate that signs no other; `names` are a server's names and addresses."""
    builder = (
        _builder(public_key, _name(common_name), under.certificate.subject, now, life_s)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(_issued_by(under), critical=False)
    )
    if alternatives := [_general_name(name) for name in names]:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(under.key, hashes.SHA256())


def revocation_list(
    under: Issuer, revoked: Iterable[tuple[str, float]], now: float
) -> x509.CertificateRevocationList:
    """Return the list of revoked certificates, by hexadecimal serial and time (RFC 5280, 5)."""
    begin = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(under.certificate.subject)
        .last_update(begin - _BACKDATED)
        .next_update(begin + timedelta(seconds=LIST_LIFE_S))
        .add_extension(_issued_by(under), critical=False)
        .add_extension(x509.CRLNumber(int(now * 1000)), critical=False)
    )
    for serial, at in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
        entry = entry.revocation_date(datetime.fromtimestamp(at, UTC))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(under.key, hashes.SHA256())


def signing_request(key: ec.EllipticCurvePrivateKey, common_name: str) -> bytes:
    """Return a request (PEM) for a certificate; who signs it may give another name."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(common_name))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def parse_request(request: bytes) -> x509.CertificateSigningRequest:
    """Return a signing request, PEM or DER, that proves possession of its P-256 key (RFC 2986).

    Raises Malformed, EnrolmentRefused.
    """
    is_text = request.lstrip().startswith(b"-----")
    try:
        parsed = (x509.load_pem_x509_csr if is_text else x509.load_der_x509_csr)(request)
        public_key = parsed.public_key()
        is_proven = parsed.is_signature_valid
    except (
        ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion,
    ) as error:  # fmt: skip
        raise Malformed(f"the signing request cannot be read: {error}", hint=_CSR_HINT) from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise EnrolmentRefused("the signing request has a key that is not P-256", hint=_CSR_HINT)
    if not is_proven:
        raise EnrolmentRefused("the signing request is not signed with its key", hint=_CSR_HINT)
    return parsed


def key_of(
    certified: x509.Certificate | x509.CertificateSigningRequest,
) -> ec.EllipticCurvePublicKey:
    """Return the key of a request that `parse_request` let pass, or of a certificate of ours."""
    key = certified.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def common_name(named: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Return the common name, empty unless there is exactly one."""
    try:
        found = [
            str(each.value) for each in named.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
    except ValueError:
        return ""
    return found[0] if len(found) == 1 else ""


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as text."""
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as text, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _builder(
    public_key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    now: float,
    life_s: float,
) -> x509.CertificateBuilder:
    begin = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _BACKDATED)
        .not_valid_after(begin + timedelta(seconds=life_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _issued_by(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
