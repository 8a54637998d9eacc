"""Enrolment over the real application: who gets in, under which name, and how often."""

from __future__ import annotations

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from httpx import Response

from control_plane.api.auth import Role
from firmware_bundles.identifiers import DeviceId, parse
from firmware_bundles.wire.enrolment import PATH, Enrolment
from support.control_planes import BROKER, ROOT, ControlPlane, code, signing_request


def ask(control_plane: ControlPlane, token: str, **fields: object) -> Response:
    """Send an enrolment request as a device does."""
    csr = signing_request(ec.generate_private_key(ec.SECP256R1()))
    return control_plane.browser().post(PATH, json={"token": token, "csr": csr} | fields)


def test_an_invited_device_gets_its_identity(control_plane: ControlPlane) -> None:
    """A token turns into a certificate whose name the server chose, the CA, the root, a secret."""
    operator = control_plane.client(Role.OPERATOR)
    made = operator.post(
        "/api/v1/enrolment-tokens", json={"device": "press-1", "labels": {"site": "berlin"}}
    )
    assert made.status_code == 201
    answer = ask(control_plane, made.json()["token"], agent_version="1.2", inventory={"cpus": 4})
    assert answer.status_code == 200, answer.text
    found = msgspec.json.decode(answer.content, type=Enrolment)
    assert (found.device, found.root, found.broker) == ("press-1", ROOT, BROKER)
    assert len(found.telemetry_secret) == 32

    certificate, issuing = x509.load_pem_x509_certificates(found.certificate.encode())
    ca = x509.load_pem_x509_certificate(found.ca.encode())
    certificate.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(ca)
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert name.value == "press-1"
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert 59 <= life.days <= 61

    device = operator.get("/api/v1/devices/press-1").json()
    assert device["labels"] == {"site": "berlin"}
    assert device["inventory"] == {"cpus": 4}
    assert control_plane.devices.telemetry_secret("press-1") == found.telemetry_secret


@pytest.mark.parametrize(
    "name", ["svc.control", "press-1/up", "+", "#", "$share", "../press-1", "Press", "a" * 64]
)
def test_no_device_gets_a_strange_name(control_plane: ControlPlane, name: str) -> None:
    """Nobody can be invited under it, and a request that asks for it gets another."""
    operator = control_plane.client(Role.OPERATOR)
    refused = operator.post("/api/v1/enrolment-tokens", json={"device": name})
    assert refused.status_code in {400, 422}, refused.text
    csr = signing_request(ec.generate_private_key(ec.SECP256R1()), name)
    wish = ask(control_plane, control_plane.invite(), csr=csr, device=name)
    assert (wish.status_code, code(wish)) == (400, "wire.malformed")
    answer = ask(control_plane, control_plane.invite(), csr=csr)
    assert answer.status_code == 200, answer.text
    found = msgspec.json.decode(answer.content, type=Enrolment)
    certificate = x509.load_pem_x509_certificates(found.certificate.encode())[0]
    (common,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common.value == parse(DeviceId, found.device, "device id") != name


def test_a_token_is_used_up(control_plane: ControlPlane) -> None:
    """A token allows as many enrolments as it says, and not one more."""
    token = control_plane.invite(uses=2)
    names = {ask(control_plane, token).json()["device"] for _ in range(2)}
    assert len(names) == 2
    refused = ask(control_plane, token)
    assert (refused.status_code, code(refused)) == (403, "access.enrolment_refused")


def test_a_token_expires(control_plane: ControlPlane) -> None:
    """A token that is too old allows nothing."""
    token = control_plane.invite()
    control_plane.clock.now += 3601
    assert code(ask(control_plane, token)) == "access.enrolment_refused"


def test_a_refused_request_spends_nothing(control_plane: ControlPlane) -> None:
    """A bad request leaves the token as it was, so that the device can try again."""
    token = control_plane.invite()
    assert ask(control_plane, token, csr="nonsense").status_code == 400
    assert ask(control_plane, token).status_code == 200


def test_an_open_token_takes_no_name_in_use(control_plane: ControlPlane) -> None:
    """Only a token that names a device may enrol it anew: nobody takes another's name."""
    control_plane.enrol("press-1")
    refused = ask(control_plane, control_plane.invite(), device="press-1")
    assert code(refused) == "access.enrolment_refused"
    assert "press-1" in refused.json()["hint"]


def test_a_bound_token_serves_no_other_device(control_plane: ControlPlane) -> None:
    """A token for one device refuses a wish for another name."""
    refused = ask(control_plane, control_plane.invite("press-1"), device="press-2")
    assert code(refused) == "access.enrolment_refused"


def test_a_device_enrolled_anew_keeps_its_labels_and_loses_its_key(
    control_plane: ControlPlane,
) -> None:
    """A second enrolment replaces the identity, and merges the labels."""
    control_plane.enrol("press-1")
    control_plane.devices.set_labels("press-1", {"site": "berlin", "line": "a"}, 0.0)
    before = control_plane.devices.public_keys_pem(["press-1"]).get("press-1")
    token = control_plane.invite("press-1", line="b")
    assert ask(control_plane, token).status_code == 200
    assert control_plane.devices.get("press-1").labels == {"site": "berlin", "line": "b"}
    assert control_plane.devices.public_keys_pem(["press-1"]).get("press-1") != before


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())]
)
def test_only_p256_keys_are_certified(
    control_plane: ControlPlane, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
) -> None:
    """A key of another kind is refused by name."""
    refused = ask(control_plane, control_plane.invite(), csr=signing_request(key))
    assert code(refused) == "access.enrolment_refused"
    assert "P-256" in refused.json()["detail"]


def test_the_request_must_be_signed_with_its_key(control_plane: ControlPlane) -> None:
    """A request whose signature does not fit its key proves nothing."""
    pem = signing_request(ec.generate_private_key(ec.SECP256R1()))
    lines = pem.splitlines()
    # The last bytes are the signature's.
    lines[-2] = ("A" if lines[-2][0] != "A" else "B") + lines[-2][1:]
    refused = ask(control_plane, control_plane.invite(), csr="\n".join(lines))
    assert refused.status_code in {400, 403}


def test_without_a_root_of_trust_nobody_is_enrolled(control_plane: ControlPlane) -> None:
    """A device that could check no model is refused, and the owner is told what to do."""
    control_plane.root = None
    token = control_plane.invite()
    refused = ask(control_plane, token)
    assert (refused.status_code, code(refused)) == (409, "conflict")
    assert "shoal keys init" in refused.json()["hint"]
    control_plane.root = ROOT
    assert ask(control_plane, token).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"token": 1, "csr": "x"}',
        b'{"token": "x"}',
        b'{"token": "\xff", "csr": "x"}',
        b'{"token": "x", "csr": "x", "device": "UP/../x"}',
        b"[" * 100_000,
    ],
)
def test_whatever_is_no_request_is_refused(control_plane: ControlPlane, body: bytes) -> None:
    """Bytes that are no enrolment request get a 400 with a sentence."""
    refused = control_plane.browser().post(PATH, content=body)
    assert (refused.status_code, code(refused)) == (400, "wire.malformed")
