"""Renewal in the shape of EST: what proves a device, what it gets, and what it keeps on disk."""

from __future__ import annotations

import base64
import ssl
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given
from hypothesis import strategies as st

from agent import enrolment, identity, reenrolment
from control_plane.api import est
from firmware_bundles.errors import EnrolmentRefused, Malformed, ServerUnreachable
from firmware_bundles.wire.enrolment import CA_CERTIFICATES_PATH, RENEWAL_PATH
from support.control_planes import ControlPlane, code, signing_request
from support.https import open_door

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from httpx import Response

DAY_S = 86_400


def ask(control_plane: ControlPlane, key: ec.EllipticCurvePrivateKey, name: str) -> Response:
    """Send a renewal request as a device does."""
    request = enrolment.signing_request(key, name).public_bytes(Encoding.DER)
    return control_plane.browser().post(RENEWAL_PATH, content=base64.encodebytes(request))


def certificates(response: Response) -> list[x509.Certificate]:
    """Return what an answer holds."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/pkcs7-mime")
    return list(pkcs7.load_der_pkcs7_certificates(base64.b64decode(response.content)))


@pytest.mark.parametrize("days", [45, 400])
def test_the_key_that_a_device_is_known_by_renews(control_plane: ControlPlane, days: int) -> None:
    """A request signed with it gets a certificate of the same name, also long after the end."""
    member = control_plane.enrol("press-1")
    control_plane.clock.now += days * DAY_S
    (renewed,) = certificates(ask(control_plane, member.key, "press-1"))
    authorities = certificates(control_plane.browser().get(CA_CERTIFICATES_PATH))
    assert renewed.public_key() == member.key.public_key()
    assert renewed.not_valid_after_utc.timestamp() == pytest.approx(
        control_plane.clock.now + 60 * DAY_S, abs=1
    )
    assert [each.subject == renewed.issuer for each in authorities].count(True) == 1


def test_a_repeated_request_is_answered_with_the_same(control_plane: ControlPlane) -> None:
    """Who lost the answer, or recorded the request, gets what the first one got."""
    member = control_plane.enrol("press-1")
    control_plane.clock.now += 45 * DAY_S
    (first,) = certificates(ask(control_plane, member.key, "press-1"))
    control_plane.clock.now += 600
    (second,) = certificates(ask(control_plane, member.key, "press-1"))
    assert first == second


def test_no_other_key_and_no_other_name_is_certified(control_plane: ControlPlane) -> None:
    """A foreign key, another device's name and a name that nobody has are refused alike."""
    member = control_plane.enrol("press-1")
    control_plane.enrol("press-2")
    foreign = ec.generate_private_key(ec.SECP256R1())
    attempts = [(foreign, "press-1"), (member.key, "press-2"), (member.key, "press-3")]
    attempts += [(member.key, name) for name in ("svc.control", "press-1/up", "+", "#")]
    for key, name in attempts:
        refused = ask(control_plane, key, name)
        assert (refused.status_code, code(refused)) == (403, "access.enrolment_refused")


def test_a_revoked_device_gets_no_certificate(control_plane: ControlPlane) -> None:
    """Not even the one that it had: its key may be somebody else's."""
    member = control_plane.enrol("press-1")
    control_plane.certificates.revoke("press-1", control_plane.clock(), is_retired=False)
    refused = ask(control_plane, member.key, "press-1")
    assert code(refused) == "access.enrolment_refused"
    assert "re-enrol press-1" in refused.json()["hint"]


@pytest.mark.parametrize(
    "body", [b"", b"!", b"AAAA", b"A" * 5000, base64.b64encode(b"-----BEGIN x"), "é".encode()]
)
def test_whatever_is_no_signing_request_is_refused(
    control_plane: ControlPlane, body: bytes
) -> None:
    """A body that cannot be read gets a 400 with a sentence."""
    refused = control_plane.browser().post(RENEWAL_PATH, content=body)
    assert (refused.status_code, code(refused)) == (400, "wire.malformed")


@given(st.binary(max_size=6000))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """Nothing but our own error comes out of a body."""
    try:
        est.decode(body)
    except Malformed as error:
        assert error.message  # noqa: PT017 - both ends are fine, anything else is not


class Door:
    """A control plane behind HTTPS, and a device that it enrolled."""

    def __init__(self, control_plane: ControlPlane, url: str, folder: Path) -> None:
        self.control_plane = control_plane
        self.url = url
        self.folder = folder

    def enrol(self, name: str) -> Path:
        """Return the state directory of a device that ran the enrol command."""
        state_dir = self.folder / name
        token = self.control_plane.invite(name)
        ca = self.folder / "door" / "ca.pem"
        enrolment.enrol(state_dir, server=self.url, token=token, ca=ca, device=None)
        return state_dir


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """Give a control plane behind HTTPS, at the present time."""
    control_plane = ControlPlane(tmp_path, time.time())
    with open_door(control_plane, tmp_path / "door") as url:
        yield Door(control_plane, url, tmp_path)
    control_plane.close()


def chain(state_dir: Path) -> list[x509.Certificate]:
    """Return the certificates that a device shows."""
    path = state_dir / identity.FOLDER / identity.CERTIFICATE
    return x509.load_pem_x509_certificates(path.read_bytes())


@pytest.mark.parametrize("days", [41, 100])
def test_a_device_renews_when_two_thirds_are_over(door: Door, days: int) -> None:
    """Before that it asks nobody; later, also past the end, it keeps a whole new chain."""
    state_dir = door.enrol("press-1")
    before, now = chain(state_dir), time.time()
    early = reenrolment.renew(state_dir, now + 39 * DAY_S)
    assert (early.is_new, chain(state_dir)) == (False, before)
    assert early.due == pytest.approx(now + 40 * DAY_S, abs=600)
    door.control_plane.clock.now = now + days * DAY_S
    found = reenrolment.renew(state_dir, now + days * DAY_S)
    assert found.is_new
    assert found.expires == pytest.approx(now + (days + 60) * DAY_S, abs=5)
    after = chain(state_dir)
    assert after[0] != before[0]
    assert (after[0].public_key(), after[1]) == (before[0].public_key(), before[1])


def test_a_refused_or_impossible_renewal_leaves_the_certificate(door: Door) -> None:
    """What is on disk stays whole, and the reason comes out as an error of ours."""
    state_dir = door.enrol("press-1")
    before = chain(state_dir)
    now = door.control_plane.clock.now + 41 * DAY_S
    door.control_plane.certificates.revoke("press-1", now, is_retired=False)
    with pytest.raises(EnrolmentRefused, match="is revoked"):
        reenrolment.renew(state_dir, now)
    facts = state_dir / identity.FOLDER / identity.FACTS
    facts.write_text(facts.read_text().replace(door.url, "https://127.0.0.1:9"))
    with pytest.raises(ServerUnreachable):
        reenrolment.renew(state_dir, now)
    assert chain(state_dir) == before


def test_a_certificate_that_is_shown_speaks_for_its_device_alone(door: Door) -> None:
    """Over TLS with another device's certificate, even the right key is refused."""
    mine, other = door.enrol("press-1"), door.enrol("press-2")
    key = reenrolment._load(identity.load(mine)).key
    request = base64.b64encode(enrolment.signing_request(key, "press-1").public_bytes(Encoding.DER))
    for state_dir, status in ((mine, 200), (other, 403)):
        folder = state_dir / identity.FOLDER
        context = ssl.create_default_context(cafile=folder / identity.CA)
        context.load_cert_chain(folder / identity.CERTIFICATE, folder / identity.KEY)
        with httpx.Client(verify=context, base_url=door.url) as client:
            assert client.post(RENEWAL_PATH, content=request).status_code == status


def test_a_certificate_of_nobody_we_know_opens_no_connection(door: Door, tmp_path: Path) -> None:
    """What is shown must be certified under our root: TLS ends before the request."""
    foreign = ControlPlane(tmp_path / "door", time.time())
    pair = foreign.authority.issue_client("press-1")
    (tmp_path / "pair").write_bytes(pair.certificate + pair.key)
    context = ssl.create_default_context(cafile=tmp_path / "door" / "ca.pem")
    context.load_cert_chain(tmp_path / "pair")
    with (
        httpx.Client(verify=context, base_url=door.url) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get(CA_CERTIFICATES_PATH)
    foreign.close()


def test_a_signing_request_of_the_enrolment_still_reads(control_plane: ControlPlane) -> None:
    """PEM and DER are told apart by their beginning."""
    member = control_plane.enrol("press-1")
    pem = signing_request(member.key, "press-1")
    body = base64.b64encode(pem.encode())
    assert control_plane.browser().post(RENEWAL_PATH, content=body).status_code == 200
