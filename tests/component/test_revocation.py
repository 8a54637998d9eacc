"""Revoked and retired devices: what ends at once, what the broker is told, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.api.auth import Role
from control_plane.fleet.revocation import Revocations
from control_plane.fleet.selectors import Selector
from firmware_bundles.errors import BrokerUnreachable, EnrolmentRefused, NotFound
from firmware_bundles.wire.enrolment import EnrolmentRequest
from support.control_planes import ControlPlane, Member, code, signing_request

if TYPE_CHECKING:
    from httpx import Response

DAY_S = 86_400


def act(control_plane: ControlPlane, path: str, role: Role = Role.OPERATOR) -> Response:
    """Ask for something to be done with a device."""
    return control_plane.client(role).post(f"/api/v1/devices/{path}")


def serial(member: Member) -> int:
    """Return the serial of a device's certificate."""
    return x509.load_pem_x509_certificate(member.enrolment.certificate.encode()).serial_number


def listed(control_plane: ControlPlane) -> set[int]:
    """Return the serials of the newest list that the broker was given."""
    found = x509.load_pem_x509_crl(control_plane.lists[-1])
    issuing = x509.load_pem_x509_certificate(control_plane.authority.issuing_pem).public_key()
    assert isinstance(issuing, ec.EllipticCurvePublicKey)
    assert found.is_signature_valid(issuing)
    return {each.serial_number for each in found}


def test_what_a_revoked_device_says_counts_no_more(control_plane: ControlPlane) -> None:
    """From the answer on: no key for its reports, no secret, no hello, no place in a cohort."""
    control_plane.enrol("press-1")
    assert act(control_plane, "press-1/revoke").status_code == 204
    devices = control_plane.devices
    assert devices.public_keys_pem(["press-1"]).get("press-1") is None
    assert devices.telemetry_secret("press-1") is None
    assert devices.presences(["press-1"]) == {}
    assert not devices.greeted({"press-1": "1"}, control_plane.clock())
    assert devices.members(Selector()) == []
    shown = control_plane.client(Role.VIEWER).get("/api/v1/devices/press-1").json()
    assert (shown["revoked"], shown["retired"]) == (control_plane.clock(), None)


def test_the_broker_gets_the_list_before_the_session_ends(control_plane: ControlPlane) -> None:
    """Its certificate is listed, nobody else's; the session is ended more than once."""
    member, other = control_plane.enrol("press-1"), control_plane.enrol("press-2")
    control_plane.revocations.tick()
    assert listed(control_plane) == set()
    act(control_plane, "press-1/revoke")
    control_plane.revocations.tick()
    assert listed(control_plane) == {serial(member)} != {serial(other)}
    assert control_plane.evicted == ["press-1"]
    for _ in range(5):
        control_plane.clock.now += 6
        control_plane.revocations.tick()
    assert control_plane.evicted == ["press-1"] * 3
    assert len(control_plane.lists) == 2


def test_the_list_is_young_and_forgets_what_expired(control_plane: ControlPlane) -> None:
    """It is made anew daily, ends a month later, and holds no certificate that has ended."""
    member = control_plane.enrol("press-1")
    act(control_plane, "press-1/revoke")
    control_plane.revocations.tick()
    control_plane.clock.now += DAY_S + 1
    control_plane.revocations.tick()
    assert (len(control_plane.lists), listed(control_plane)) == (2, {serial(member)})
    end = x509.load_pem_x509_crl(control_plane.lists[-1]).next_update_utc
    assert end is not None
    assert end.timestamp() == pytest.approx(control_plane.clock() + 30 * DAY_S, abs=1)
    control_plane.clock.now += 60 * DAY_S
    control_plane.revocations.tick()
    assert listed(control_plane) == set()


def test_a_list_that_is_not_renewed_is_an_alarm(
    control_plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of its life over, status and log say so, not every second; a renewal ends the alarm."""
    control_plane.revocations.tick()
    working = control_plane.lists.append
    is_broken = True

    def install(revoked: bytes) -> None:
        if is_broken:
            raise OSError("the disk is full")
        working(revoked)

    control_plane.revocations._install = install
    for days, is_late in ((14, False), (2, True), (1, True)):
        control_plane.clock.now += days * DAY_S
        for _ in range(3):
            control_plane.clock.now += 6
            with pytest.raises(OSError, match="full"):
                control_plane.revocations.tick()
        shown = control_plane.client(Role.VIEWER).get("/api/v1/broker").json()
        assert shown["list_is_late"] is is_late
    assert sum("is not renewed" in each.message for each in caplog.records) == 2
    is_broken = False
    control_plane.clock.now += 6
    control_plane.revocations.tick()
    assert not control_plane.revocations.age().is_late


def test_a_revoked_device_comes_back_with_another_key_only(control_plane: ControlPlane) -> None:
    """A new invitation lets it in again, but not under the key that was revoked."""
    member = control_plane.enrol("press-1")
    spare = control_plane.invite("press-1")
    act(control_plane, "press-1/revoke")
    new = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(EnrolmentRefused, match="unknown, used up"):
        control_plane.enrolments.enrol(EnrolmentRequest(token=spare, csr=signing_request(new)))
    token = control_plane.invite("press-1")
    old = EnrolmentRequest(token=token, csr=signing_request(member.key))
    with pytest.raises(EnrolmentRefused, match="this is the key that it had"):
        control_plane.enrolments.enrol(old)
    control_plane.enrolments.enrol(EnrolmentRequest(token=token, csr=signing_request(new)))
    assert control_plane.devices.public_keys_pem(["press-1"]).get("press-1") is not None
    assert control_plane.devices.get("press-1").revoked is None
    control_plane.revocations.tick()
    assert listed(control_plane) == {serial(member)}


def test_a_new_key_revokes_what_the_old_one_had(control_plane: ControlPlane) -> None:
    """A device enrolled anew under another key leaves no valid certificate of the old one."""
    member = control_plane.enrol("press-1")
    again = control_plane.enrol("press-1")
    control_plane.revocations.tick()
    assert listed(control_plane) == {serial(member)} != {serial(again)}


def test_sessions_that_are_to_end_survive_a_restart(control_plane: ControlPlane) -> None:
    """Who was revoked before a stop is put out after it; who enrolled anew meanwhile is not."""
    for name in ("press-1", "press-2"):
        control_plane.enrol(name)
        act(control_plane, f"{name}/revoke")
    control_plane.enrol("press-2")
    evicted: list[str] = []
    again = Revocations(
        control_plane.certificates,
        control_plane.authority,
        install=lambda _list: None,
        evict=evicted.append,
        clock=control_plane.clock,
    )
    begun = control_plane.clock()
    while len(evicted) < 3:
        again.tick()
        control_plane.clock.now += 1
    assert control_plane.clock() - begun < 60
    again.tick()
    assert evicted == ["press-1"] * 3


def test_a_broker_that_is_away_delays_and_forgets_nobody(control_plane: ControlPlane) -> None:
    """An eviction that failed is tried again, and the next device's with it."""
    for name in ("press-1", "press-2"):
        control_plane.enrol(name)
        act(control_plane, f"{name}/revoke")
    tried: list[str] = []

    def evict(device_id: str) -> None:
        tried.append(device_id)
        if len(tried) <= 4:
            raise BrokerUnreachable("away")

    again = Revocations(
        control_plane.certificates,
        control_plane.authority,
        install=lambda _list: None,
        evict=evict,
        clock=control_plane.clock,
    )
    for _ in range(8):
        again.tick()
        control_plane.clock.now += 6
    assert tried == ["press-1", "press-2"] * 5


def test_only_operators_revoke_and_only_what_exists(control_plane: ControlPlane) -> None:
    """A viewer may not, and a name that nobody has is not found."""
    control_plane.enrol("press-1")
    assert act(control_plane, "press-1/revoke", Role.VIEWER).status_code == 403
    assert code(act(control_plane, "press-9/revoke")) == NotFound.code
    assert control_plane.devices.get("press-1").revoked is None
