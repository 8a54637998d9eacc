"""Retiring a device at the control plane: what it is told, what confirms it, when access ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

from control_plane.api.auth import Role
from control_plane.fleet.retirement import FAREWELL_S, WAIT_S_DEFAULT
from control_plane.fleet.selectors import Selector
from control_plane.store.devices import Desired, store_desired
from firmware_bundles.errors import NotFound
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import codec
from firmware_bundles.wire.messages import Assignment, Erased, Erasure, Hello, Policy, Report
from support.control_planes import ControlPlane, Member, code

if TYPE_CHECKING:
    from httpx import Response

INCARNATION = "0" * 16


def retire(control_plane: ControlPlane, device: str, **body: float) -> Response:
    """Ask for a device's retirement."""
    path = f"/api/v1/devices/{device}/retire"
    return control_plane.client(Role.OPERATOR).post(path, json=body)


def shown(control_plane: ControlPlane, device: str) -> dict[str, Any]:
    """What the API says of a device."""
    found: dict[str, Any] = (
        control_plane.client(Role.VIEWER).get(f"/api/v1/devices/{device}").json()
    )
    return found


def greet(control_plane: ControlPlane, device: str) -> Assignment:
    """Say hello, and return the answer."""
    hello = Hello(
        nonce="ab" * 16,
        incarnation=INCARNATION,
        agent_version="1",
        generations={},
        inventory_digest="0" * 64,
    )
    control_plane.assignments.handle(device, codec.encode(hello))
    return last_word(control_plane)


def last_word(control_plane: ControlPlane) -> Assignment:
    """The newest assignment that was sent."""
    _topic, payload = control_plane.sent.messages[-1]
    key = control_plane.director.public_key
    return envelopes.open_envelope(Assignment, payload, [key])


def report(control_plane: ControlPlane, member: Member, counter: int, generation: int) -> None:
    """Let a device say that it has erased all."""
    said = Report(
        schema="1.1",
        device=member.id,
        incarnation=INCARNATION,
        counter=counter,
        time=1.0,
        agent_version="1",
        families=(),
        erased=Erased(generation=generation, time=1.0, segments=7),
    )
    control_plane.reports.handle(member.id, envelopes.sign(said, member.signer))


def order(control_plane: ControlPlane, device: str) -> None:
    """Want a model of a device."""
    wanted = Desired(
        device, "digits", "digits/1/manifest.json", "a" * 64, 9, "r1", "candidate", Policy()
    )
    with control_plane.database.transaction() as connection:
        store_desired(connection, [wanted], {device: 1}, control_plane.clock())


def test_a_retired_device_is_told_to_erase_and_to_run_nothing(
    control_plane: ControlPlane,
) -> None:
    """It hears so at its next hello, under a generation, and counts in no cohort; access stays."""
    control_plane.enrol("press-1")
    order(control_plane, "press-1")
    assert greet(control_plane, "press-1").orders
    answer = retire(control_plane, "press-1")
    assert answer.json()["access"] == "retiring"
    assert answer.json()["retire_until"] == control_plane.clock() + WAIT_S_DEFAULT
    order(control_plane, "press-1")  # a rollout under way may still want it
    told = greet(control_plane, "press-1")
    assert (told.schema, told.orders) == ("1.1", ())
    assert told.erase == Erasure(generation=int(control_plane.clock()))
    assert control_plane.devices.members(Selector()) == []
    assert control_plane.devices.public_keys_pem(["press-1"]).get("press-1") is not None


def test_one_that_is_online_hears_of_it_at_once(control_plane: ControlPlane) -> None:
    """The order is pushed; asking again changes the end alone, and not the generation."""
    control_plane.enrol("press-1")
    greet(control_plane, "press-1")
    retire(control_plane, "press-1")
    first = last_word(control_plane)
    assert (first.nonce, isinstance(first.erase, Erasure)) == (None, True)
    control_plane.clock.now += 100
    again = retire(control_plane, "press-1", wait_s=50)
    assert last_word(control_plane).erase == first.erase
    assert again.json()["retire_until"] == control_plane.clock() + 50


def test_access_ends_after_the_signed_confirmation(control_plane: ControlPlane) -> None:
    """The device is told that its word arrived, has a moment to hear it, and is out then."""
    member = control_plane.enrol("press-1")
    greet(control_plane, "press-1")
    retire(control_plane, "press-1")
    generation = int(control_plane.clock())
    report(control_plane, member, 1, generation)
    assert last_word(control_plane).erase == Erasure(generation=generation, is_confirmed=True)
    control_plane.retirements.tick()
    assert shown(control_plane, "press-1")["access"] == "retiring"
    control_plane.clock.now += FAREWELL_S
    control_plane.retirements.tick()
    found = shown(control_plane, "press-1")
    assert (found["access"], found["segments_erased"]) == ("retired", 7)
    assert (found["erased"], found["retired"]) == (generation, control_plane.clock())
    assert control_plane.devices.public_keys_pem(["press-1"]).get("press-1") is None


def test_what_confirms_another_retirement_confirms_nothing(control_plane: ControlPlane) -> None:
    """An erasure of before, or of nobody's order, ends no access."""
    member = control_plane.enrol("press-1")
    report(control_plane, member, 1, 5)
    assert shown(control_plane, "press-1")["erased"] is None
    retire(control_plane, "press-1")
    report(control_plane, member, 2, 5)
    control_plane.clock.now += FAREWELL_S
    control_plane.retirements.tick()
    found = shown(control_plane, "press-1")
    assert (found["access"], found["erased"]) == ("retiring", None)


def test_a_device_that_never_comes_back_loses_its_access_in_the_end(
    control_plane: ControlPlane,
) -> None:
    """After the time that it had; what it held is not said to be erased."""
    control_plane.enrol("press-1")
    retire(control_plane, "press-1", wait_s=100)
    control_plane.clock.now += 99
    control_plane.retirements.tick()
    assert shown(control_plane, "press-1")["access"] == "retiring"
    control_plane.clock.now += 2
    control_plane.retirements.tick()
    found = shown(control_plane, "press-1")
    assert (found["access"], found["erased"]) == ("retired", None)


def test_retiring_now_waits_for_nobody(control_plane: ControlPlane) -> None:
    """Nor does retiring one that has no access; its history stays, and so does when it was lost."""
    begun = control_plane.clock()
    for name in ("press-1", "press-2"):
        control_plane.enrol(name)
    control_plane.revocations.revoke("press-2")
    control_plane.clock.now += 10
    retire(control_plane, "press-1", wait_s=0)
    retire(control_plane, "press-2")
    for name, revoked in (("press-1", begun + 10), ("press-2", begun)):
        row = control_plane.devices.get(name)
        assert (row.revoked, row.retired) == (revoked, begun + 10)


def test_an_enrolment_ends_a_retirement(control_plane: ControlPlane) -> None:
    """The device is as any other again; the next retirement has a newer generation."""
    control_plane.enrol("press-1")
    retire(control_plane, "press-1")
    control_plane.enrol("press-1")
    assert shown(control_plane, "press-1")["access"] == "enrolled"
    assert greet(control_plane, "press-1").erase is UNSET
    before = int(control_plane.clock())
    retire(control_plane, "press-1")
    told = greet(control_plane, "press-1").erase
    assert isinstance(told, Erasure)
    assert told.generation == before + 1


def test_who_may_retire_and_whom(control_plane: ControlPlane) -> None:
    """A viewer may not, a name that nobody has is not found, and time has bounds."""
    control_plane.enrol("press-1")
    viewer = control_plane.client(Role.VIEWER)
    assert viewer.post("/api/v1/devices/press-1/retire").status_code == 403
    assert code(retire(control_plane, "press-9")) == NotFound.code
    assert retire(control_plane, "press-1", wait_s=-1).status_code in {400, 422}
    assert shown(control_plane, "press-1")["access"] == "enrolled"


def test_access_is_told_of_every_device(control_plane: ControlPlane) -> None:
    """With the end of its certificate; one that ended is told apart from one that was taken."""
    for name in ("press-1", "press-2", "press-3"):
        control_plane.enrol(name)
    control_plane.revocations.revoke("press-2")
    retire(control_plane, "press-3")
    viewer = control_plane.client(Role.VIEWER)

    def told() -> dict[str, str]:
        page = viewer.get("/api/v1/devices").json()["devices"]
        return {device["id"]: device["access"] for device in page}

    assert told() == {"press-1": "enrolled", "press-2": "revoked", "press-3": "retiring"}
    ends = shown(control_plane, "press-1")["certificate_ends"]
    assert ends == pytest.approx(control_plane.clock() + 60 * 86_400, abs=1)
    control_plane.clock.now = ends
    assert told()["press-1"] == "expired"
