"""The certificate authorities of the fleet: a root that may lie offline, and one for daily work.

Devices trust the root alone. The issuing authority stands under it and signs everything else, so
that the root's key is needed only to make or renew the issuing one and may be kept elsewhere. Who
may have a certificate is decided in `enrolment`; what name it carries is decided there too, never
by the request (RFC 5280).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from control_plane.fleet import certificates
from control_plane.fleet.certificates import Issuer
from firmware_bundles import durable
from firmware_bundles.errors import ConfigInvalid, StateDamaged
from firmware_bundles.identifiers import DeviceId, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

DEVICE_LIFE_S: Final = 60 * 86_400
_SERVICE_LIFE_S: Final = 397 * 86_400
# An issuing authority that outlives no device certificate any more is renewed long before.
_ISSUING_LEFT_S_MIN: Final = 365 * 86_400
ROOT_KEY: Final = "root.key"
ROOT: Final = "root.pem"
_ISSUING_KEY: Final = "issuing.key"
_ISSUING: Final = "issuing.pem"
_SINGLE: Final = "ca.pem"


class Pair(NamedTuple):
    """A certificate chain, own certificate first, with its private key, both PEM."""

    certificate: bytes
    key: bytes


class DeviceCertificate(NamedTuple):
    """A device's certificate chain and what is stored of it."""

    certificate_pem: str
    serial: str
    public_key_pem: str
    expires: float


class Authority:
    """Signs certificates with the issuing authority's key, which never leaves its file."""

    def __init__(
        self,
        root: x509.Certificate,
        issuing: Issuer,
        clock: Callable[[], float],
        device_life_s: float,
    ) -> None:
        self._root = root
        self._issuing = issuing
        self._clock = clock
        self._device_life_s = device_life_s

    @classmethod
    def load_or_create(
        cls,
        directory: Path,
        clock: Callable[[], float],
        device_life_s: float = DEVICE_LIFE_S,
    ) -> Authority:
        """Return the authorities kept in `directory`, made at the first start.

        The root's key may be absent; with it, an issuing authority in its last year is renewed.
        Raises StateDamaged, ConfigInvalid, OSError.
        """
        if not (directory / ROOT).exists():
            _create(directory, clock())
        try:
            root = x509.load_pem_x509_certificate((directory / ROOT).read_bytes())
            issuing = Issuer(
                x509.load_pem_x509_certificate((directory / _ISSUING).read_bytes()),
                _load_key(directory / _ISSUING_KEY),
            )
            if _is_ending(issuing.certificate, clock()) and (directory / ROOT_KEY).exists():
                above = Issuer(root, _load_key(directory / ROOT_KEY))
                issuing = _renew(directory, above, issuing.key, clock())
        except (ValueError, TypeError, OSError) as error:
            raise StateDamaged(
                f"the certificate authority in {directory} cannot be read: {error}",
                hint="Restore the folder from a backup: devices trust no other authority.",
            ) from error
        return cls(root, issuing, clock, device_life_s)

    @property
    def certificate_pem(self) -> bytes:
        """The root certificate, for those who shall trust it."""
        return certificates.pem(self._root)

    @property
    def issuing_pem(self) -> bytes:
        """The certificate that stands between the root and all others."""
        return certificates.pem(self._issuing.certificate)

    @property
    def chain_pem(self) -> bytes:
        """Root and issuing certificate, for who checks peers that show their own alone."""
        return self.certificate_pem + self.issuing_pem

    def is_ending(self) -> bool:
        """Whether the issuing authority is in its last year: it needs the root's key."""
        return _is_ending(self._issuing.certificate, self._clock())

    def issue_server(self, names: Iterable[str]) -> Pair:
        """Return a certificate for a server with these DNS names or addresses."""
        unique = list(dict.fromkeys(names))
        return self._issue_pair(unique[0], certificates.SERVER, _SERVICE_LIFE_S, unique)

    def certify_server(self, public_key: ec.EllipticCurvePublicKey, names: Iterable[str]) -> bytes:
        """Return a certificate (PEM, with its issuer) for a server whose key is its own."""
        unique = list(dict.fromkeys(names))
        made = certificates.leaf(
            self._issuing,
            public_key,
            unique[0],
            usage=certificates.SERVER,
            now=self._clock(),
            life_s=_SERVICE_LIFE_S,
            names=unique,
        )
        return certificates.pem(made) + self.issuing_pem

    def issue_client(self, common_name: str, life_s: float = _SERVICE_LIFE_S) -> Pair:
        """Return a certificate for a client whose key is made here."""
        return self._issue_pair(common_name, certificates.CLIENT, life_s)

    def issue_device(
        self, device_id: str, public_key: ec.EllipticCurvePublicKey
    ) -> DeviceCertificate:
        """Return a certificate that calls the holder of `public_key` by `device_id`.

        The last place that keeps strange names out. Raises Malformed.
        """
        parse(DeviceId, device_id, "device id")
        certificate = certificates.leaf(
            self._issuing,
            public_key,
            device_id,
            usage=certificates.CLIENT,
            now=self._clock(),
            life_s=self._device_life_s,
        )
        return DeviceCertificate(
            (certificates.pem(certificate) + self.issuing_pem).decode(),
            f"{certificate.serial_number:x}",
            public_key_pem(public_key),
            certificate.not_valid_after_utc.timestamp(),
        )

    def revocation_list(self, revoked: Iterable[tuple[str, float]]) -> bytes:
        """Return the list (CRL, PEM) of what was revoked, given by serial and time."""
        made = certificates.revocation_list(self._issuing, revoked, self._clock())
        return made.public_bytes(Encoding.PEM)

    def _issue_pair(
        self, name: str, usage: x509.ObjectIdentifier, life_s: float, names: Iterable[str] = ()
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certificates.leaf(
            self._issuing,
            key.public_key(),
            name,
            usage=usage,
            now=self._clock(),
            life_s=life_s,
            names=names,
        )
        return Pair(certificates.pem(certificate) + self.issuing_pem, certificates.key_pem(key))


def public_key_pem(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as it is stored."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _create(directory: Path, now: float) -> None:
    if (directory / _SINGLE).exists():
        raise ConfigInvalid(
            f"{directory} holds an authority of before root and issuing authority were apart",
            hint="Start with an empty --data, or remove that folder and enrol all devices anew.",
        )
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    above = Issuer(certificates.root(key, now), key)
    durable.write(directory / ROOT_KEY, certificates.key_pem(key), mode=0o600)
    _renew(directory, above, ec.generate_private_key(ec.SECP256R1()), now)
    # Last, so that a start that was interrupted begins anew.
    durable.write(directory / ROOT, certificates.pem(above.certificate))


def _renew(directory: Path, above: Issuer, key: ec.EllipticCurvePrivateKey, now: float) -> Issuer:
    """Write an issuing authority; under the same key, what the last one signed stays valid."""
    renewed = Issuer(certificates.issuing(above, key.public_key(), now), key)
    durable.write(directory / _ISSUING_KEY, certificates.key_pem(key), mode=0o600)
    durable.write(directory / _ISSUING, certificates.pem(renewed.certificate))
    return renewed


def _is_ending(certificate: x509.Certificate, now: float) -> bool:
    return certificate.not_valid_after_utc.timestamp() - now < _ISSUING_LEFT_S_MIN


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path.name} is no P-256 key")
    return key
