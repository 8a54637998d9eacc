"""A control plane's fleet part over a database on disk, without broker, listeners or processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner

from control_plane.api import app as application
from control_plane.api import broker as broker_routes
from control_plane.api import cohorts as cohort_routes
from control_plane.api import devices as device_routes
from control_plane.api import enrolment as enrolment_routes
from control_plane.api import est as est_routes
from control_plane.api import tokens as token_routes
from control_plane.api.auth import Access, Role
from control_plane.fleet.assignments import Assignments
from control_plane.fleet.authority import Authority
from control_plane.fleet.cohorts import Cohorts
from control_plane.fleet.enrolment import Enrolments
from control_plane.fleet.presence import Presences
from control_plane.fleet.renewal import Renewals
from control_plane.fleet.reports import Reports
from control_plane.fleet.retirement import Retirements
from control_plane.fleet.revocation import Revocations
from control_plane.store.access import AccessTokens
from control_plane.store.certificates import Certificates
from control_plane.store.cohorts import CohortRows
from control_plane.store.database import Database
from control_plane.store.devices import Devices
from control_plane.store.enrolment import Invitations
from control_plane.store.retirement import RetirementRows
from firmware_bundles.errors import NotFound
from firmware_bundles.trust import envelopes, keys
from firmware_bundles.wire.enrolment import Enrolment, EnrolmentRequest
from support.http import AppTransport

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

ROOT = b'{"signed": "the root of an example"}'
BROKER = "mqtts://broker.example:8883"


@dataclass
class Clock:
    """Time that moves when a test says so."""

    now: float = 1_760_000_000.0

    def __call__(self) -> float:
        """Return the present time."""
        return self.now


@dataclass
class Sent:
    """What was published."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)

    def __call__(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Take one message."""
        assert not retain
        self.messages.append((topic, payload))


class ControlPlane:
    """The parts of the fleet, made as the service makes them."""

    def __init__(self, directory: Path, now: float = Clock.now) -> None:
        self.clock = Clock(now)
        self.sent = Sent()
        self.root: bytes | None = ROOT
        self.database = Database.open(f"sqlite:///{directory / 'shoal.db'}")
        self.tokens = AccessTokens(self.database)
        self.devices = Devices(self.database)
        self.certificates = Certificates(self.database)
        self.authority = Authority.load_or_create(directory / "ca", self.clock)
        self.cohorts = Cohorts(CohortRows(self.database), self.devices, self.clock)
        self.enrolments = Enrolments(
            Invitations(self.database),
            self.devices,
            self.certificates,
            self.authority,
            roots=self._trusted_roots,
            broker=BROKER,
            clock=self.clock,
        )
        self.renewals = Renewals(self.certificates, self.authority, self.clock)
        self.lists: list[bytes] = []
        self.evicted: list[str] = []
        self.revocations = Revocations(
            self.certificates,
            self.authority,
            install=self.lists.append,
            evict=self.evicted.append,
            clock=self.clock,
        )
        self.director = keys.generate()
        retirements = RetirementRows(self.database)
        self.assignments = Assignments(
            self.devices, self.director, self.sent, self.clock, retirement=retirements.find
        )
        self.retirements = Retirements(
            retirements,
            revoke=self.revocations.revoke,
            push=self.assignments.push,
            clock=self.clock,
        )
        self.presences = Presences(self.devices, self.clock)
        self.reports = Reports(self.devices, self.clock, self.retirements.confirmed)
        self.access = Access(self.tokens, bytes(32), self.clock)
        self.app = self._make_app()

    def _make_app(self) -> FastAPI:
        return application.create(
            "0.0.0",
            api=[
                enrolment_routes.router(
                    self.access,
                    self.enrolments,
                    ca_pem=self.authority.certificate_pem,
                    server_url="https://server.example:8443",
                ),
                device_routes.router(
                    self.access,
                    self.devices,
                    self.cohorts,
                    self.certificates,
                    revoke=self.revocations.revoke,
                    retire=self.retirements.retire,
                    clock=self.clock,
                ),
                broker_routes.router(
                    self.access,
                    self.authority,
                    standing=self._broker_standing,
                    revoked=self.revocations.current,
                ),
                cohort_routes.router(self.access, self.cohorts),
                token_routes.router(self.access, self.tokens, self.clock),
            ],
            pages=[est_routes.router(self.renewals, chain_pem=self.authority.chain_pem)],
        )

    def token(self, role: Role) -> str:
        """Return a fresh API token."""
        return token_routes.create(self.tokens, role.value, role, self.clock()).token

    def browser(self) -> httpx.Client:
        """Return a client without any credential."""
        return httpx.Client(transport=AppTransport(self.app), base_url="http://127.0.0.1:8080")

    def client(self, role: Role) -> httpx.Client:
        """Return a client with a fresh token of this role."""
        client = self.browser()
        client.headers["Authorization"] = f"Bearer {self.token(role)}"
        return client

    def invite(self, device: str | None = None, *, uses: int = 1, **labels: str) -> str:
        """Return a fresh enrolment token."""
        return self.enrolments.invite(
            device=device, device_labels=labels, uses=uses, life_s=3600, created_by="test"
        )[0]

    def enrol(self, device: str) -> Member:
        """Return a device that is enrolled."""
        key = ec.generate_private_key(ec.SECP256R1())
        answer = self.enrolments.enrol(
            EnrolmentRequest(token=self.invite(device), csr=signing_request(key))
        )
        return Member(answer, key)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def _broker_standing(self) -> broker_routes.BrokerStanding:
        age = self.revocations.age()
        return broker_routes.BrokerStanding(
            name="mosquitto",
            url=BROKER,
            is_connected=True,
            retained_bytes_max=2**28,
            retained_bytes=2**20,
            retained_chunks=20,
            left_out_bytes=2**21,
            left_out_chunks=40,
            list_given=age.given,
            list_ends=age.ends,
            list_is_late=age.is_late,
            refused={"trust.report_replayed": 2},
            dropped=0,
        )

    def _trusted_roots(self) -> list[bytes]:
        if self.root is None:
            raise NotFound("there is no root yet")
        return [self.root]


@dataclass
class Member:
    """An enrolled device and its key."""

    enrolment: Enrolment
    key: ec.EllipticCurvePrivateKey

    @property
    def id(self) -> str:
        """The device's name."""
        return self.enrolment.device

    @property
    def signer(self) -> CryptoSigner:
        """What the device signs its reports with."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return envelopes.device_signer(self.id, pem)


def signing_request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "whoever"
) -> str:
    """Return a signing request (PEM) that asks for the name `name`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def code(response: httpx.Response) -> str:
    """Return the code of a refusal."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    return str(response.json()["code"])
