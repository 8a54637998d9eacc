"""The certificate authority of the fleet: one root, and what it says of servers and devices.

P-256 throughout, as every TLS stack of the fleet knows it. Who may have a certificate is decided
in `enrolment`; what name it carries is decided there too, never by the request (RFC 5280).
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firmware_bundles import durable, limits
from firmware_bundles.errors import EnrolmentRefused, Malformed, StateDamaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cryptography.x509.oid import ObjectIdentifier

DEVICE_LIFE_S: Final = 60 * 86_400
_SERVICE_LIFE_S: Final = 397 * 86_400
_ROOT_LIFE_S: Final = 10 * 365 * 86_400
_BACKDATED: Final = timedelta(seconds=limits.CLOCK_SKEW_S_MAX)
_CSR_HINT: Final = "Make the request anew with a P-256 key."


class Pair(NamedTuple):
    """A certificate with its private key, both PEM."""

    certificate: bytes
    key: bytes


class DeviceCertificate(NamedTuple):
    """A device's certificate and what is stored of it."""

    certificate_pem: str
    serial: str
    public_key_pem: str


class Authority:
    """Signs certificates. Its key never leaves its file."""

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        clock: Callable[[], float],
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock

    @classmethod
    def load_or_create(cls, directory: Path, clock: Callable[[], float]) -> Authority:
        """Return the authority kept in `directory`, made at the first start.

        Raises StateDamaged, OSError.
        """
        key_path, certificate_path = directory / "ca.key", directory / "ca.pem"
        if not certificate_path.exists():
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            key = ec.generate_private_key(ec.SECP256R1())
            durable.write(key_path, _key_pem(key), mode=0o600)
            durable.write(certificate_path, _pem(_root(key, clock())))
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key_of_root = load_pem_private_key(key_path.read_bytes(), None)
        except (ValueError, OSError) as error:
            raise StateDamaged(
                f"the certificate authority in {directory} cannot be read: {error}",
                hint="Restore the folder from a backup: devices trust no other authority.",
            ) from error
        assert isinstance(key_of_root, ec.EllipticCurvePrivateKey)
        return cls(certificate, key_of_root, clock)

    @property
    def certificate_pem(self) -> bytes:
        """The root certificate, for those who shall trust it."""
        return _pem(self._certificate)

    def issue_server(self, names: Iterable[str]) -> Pair:
        """Return a certificate for a server with these DNS names or addresses."""
        unique = list(dict.fromkeys(names))
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(
            key.public_key(),
            unique[0],
            ExtendedKeyUsageOID.SERVER_AUTH,
            _SERVICE_LIFE_S,
            x509.SubjectAlternativeName([_general_name(name) for name in unique]),
        )
        return Pair(_pem(certificate), _key_pem(key))

    def issue_client(self, common_name: str) -> Pair:
        """Return a certificate for a service of ours, outside the alphabet of device ids."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(
            key.public_key(), common_name, ExtendedKeyUsageOID.CLIENT_AUTH, _SERVICE_LIFE_S
        )
        return Pair(_pem(certificate), _key_pem(key))

    def issue_device(
        self, device_id: str, public_key: ec.EllipticCurvePublicKey
    ) -> DeviceCertificate:
        """Return a certificate that calls the holder of `public_key` by `device_id`."""
        certificate = self._issue(
            public_key, device_id, ExtendedKeyUsageOID.CLIENT_AUTH, DEVICE_LIFE_S
        )
        pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return DeviceCertificate(
            _pem(certificate).decode(), f"{certificate.serial_number:x}", pem.decode()
        )

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        common_name: str,
        usage: ObjectIdentifier,
        life_s: int,
        names: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:
        builder = (
            _builder(public_key, common_name, self._certificate.subject, self._clock(), life_s)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def parse_request(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """Return the key whose possession a signing request proves (RFC 2986).

    The name that it asks for is ignored. Raises Malformed, EnrolmentRefused.
    """
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        public_key = request.public_key()
        is_proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise Malformed(f"the signing request cannot be read: {error}", hint=_CSR_HINT) from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise EnrolmentRefused("the signing request has a key that is not P-256", hint=_CSR_HINT)
    if not is_proven:
        raise EnrolmentRefused("the signing request is not signed with its key", hint=_CSR_HINT)
    return public_key


def _root(key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shoal fleet root")])
    return (
        _builder(key.public_key(), "shoal fleet root", name, now, _ROOT_LIFE_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _builder(
    public_key: ec.EllipticCurvePublicKey,
    common_name: str,
    issuer: x509.Name,
    now: float,
    life_s: int,
) -> x509.CertificateBuilder:
    begin = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _BACKDATED)
        .not_valid_after(begin + timedelta(seconds=life_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


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


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
