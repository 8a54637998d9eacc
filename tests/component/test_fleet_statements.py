"""What devices say and are told: presence, hello and assignment, report. Real keys, no broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from control_plane.api.auth import Role
from control_plane.broker.inbox import Inbox
from control_plane.cli import main as command
from control_plane.fleet.assignments import Assignments
from control_plane.fleet.strangers import Strangers
from control_plane.store.devices import Desired, store_desired
from firmware_bundles.errors import (
    AuthenticationFailed,
    NotFound,
    ReportReplayed,
    ShoalError,
    SignatureInvalid,
)
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import (
    Assignment,
    BufferFacts,
    DeploymentState,
    Detection,
    FamilyReport,
    Hello,
    Policy,
    Presence,
    Report,
    Serving,
)
from firmware_bundles.wire.topics import Down, Up
from support.control_planes import ControlPlane, Member
from support.http_server import serving

DIGEST, OTHER_DIGEST = "a" * 64, "b" * 64
NONCE, CONNECTION = "0" * 32, "1" * 32


def hello(**generations: int) -> Hello:
    """Return what a device says when it connects."""
    return Hello(
        nonce=NONCE,
        incarnation="0" * 16,
        agent_version="1.0",
        generations=generations,
        inventory_digest=DIGEST,
    )


def want(control_plane: ControlPlane, device: str, family: str = "digits") -> int:
    """Want a model of a device, as a rollout does; return the generation."""
    path, now = f"{family}/1/manifest.json", control_plane.clock()
    wanted = Desired(device, family, path, DIGEST, 1000, "r1", "candidate", Policy())
    with control_plane.database.transaction() as connection:
        store_desired(connection, [wanted], {device: int(now)}, now)
    return int(now)


def report(member: Member, counter: int, **changes: object) -> Report:
    """Return a report of a device that serves a model."""
    serving = Serving(
        digest=DIGEST, version="1", runtime="litert", delegate="xnnpack", since=1.0, answered=7
    )
    family = FamilyReport(
        family="digits", generation=5, state=DeploymentState.COMMITTED, serving=serving
    )
    fields: dict[str, object] = {
        "device": member.id,
        "incarnation": "0" * 16,
        "counter": counter,
        "time": 1.0,
        "agent_version": "1.1",
        "families": (family,),
        "inventory": {"cpus": 2},
        "buffer": BufferFacts(segments=3),
    }
    return Report(**(fields | changes))  # type: ignore[arg-type]


def told(control_plane: ControlPlane) -> tuple[str, Assignment]:
    """Return topic and content of the last thing that was published, its signature checked."""
    topic, payload = control_plane.sent.messages[-1]
    keys = [control_plane.director.public_key]
    return topic, envelopes.open_envelope(Assignment, payload, keys)


def test_a_hello_is_answered_with_what_is_newer(control_plane: ControlPlane) -> None:
    """The signed answer echoes the nonce and lists families whose generation is newer."""
    member = control_plane.enrol("press-1")
    now = control_plane.clock()
    generation = want(control_plane, member.id)
    known = want(control_plane, member.id, "faces")

    control_plane.assignments.handle(member.id, codec.encode(hello(faces=known)))
    topic, found = told(control_plane)
    assert topic == topics.down(member.id, Down.ASSIGNMENT)
    assert (found.device, found.nonce, found.issued) == (member.id, NONCE, now)
    assert found.expires > now
    (order,) = found.orders
    assert (order.family, order.generation, order.model.digest) == ("digits", generation, DIGEST)
    assert control_plane.devices.get(member.id).is_online


def test_an_empty_answer_still_tells_the_time(control_plane: ControlPlane) -> None:
    """A device with nothing to do is answered all the same."""
    member = control_plane.enrol("press-1")
    control_plane.assignments.handle(member.id, codec.encode(hello()))
    assert told(control_plane)[1].orders == ()


def test_a_stranger_is_not_answered(control_plane: ControlPlane) -> None:
    """A hello of a device that was never enrolled gets no signature."""
    control_plane.assignments.handle("nobody", codec.encode(hello()))
    assert control_plane.sent.messages == []


def test_a_push_reaches_those_who_are_there(control_plane: ControlPlane) -> None:
    """Changes are pushed to devices that are online; the others will ask."""
    here, away = control_plane.enrol("press-1"), control_plane.enrol("press-2")
    control_plane.presences.handle(
        here.id, codec.encode(Presence(online=True, connection=CONNECTION))
    )
    for each in (here, away):
        want(control_plane, each.id)
    control_plane.assignments.push([here.id, away.id])
    (sent,) = control_plane.sent.messages
    assert sent[0] == topics.down(here.id, Down.ASSIGNMENT)
    assert told(control_plane)[1].nonce is None


def test_a_report_is_believed_once(control_plane: ControlPlane) -> None:
    """What a device signed is stored; the same report, or an older one, changes nothing."""
    member = control_plane.enrol("press-1")
    found = Detection(code="trust.rollback", message="older", count=2, last=3.0)
    signed = envelopes.sign(report(member, 2, detected=(found,)), member.signer)
    control_plane.reports.handle(member.id, signed)
    older = envelopes.sign(report(member, 1, agent_version="0.9"), member.signer)
    for again in (signed, older):
        with pytest.raises(ReportReplayed):
            control_plane.reports.handle(member.id, again)

    (reported,) = control_plane.devices.reported(member.id)
    assert (reported["state"], reported["serving_digest"], reported["answered"]) == (
        "committed",
        DIGEST,
        7,
    )
    (detection,) = control_plane.devices.detections(member.id)
    assert (detection["code"], detection["count"]) == ("trust.rollback", 2)
    device = control_plane.devices.get(member.id)
    assert (device.agent_version, device.inventory) == ("1.1", {"cpus": 2})
    assert device.buffer == {"segments": 3, "bytes": 0, "rows_dropped": 0}
    assert control_plane.devices.serving([member.id]) == {member.id: {"digits": "1"}}


def test_why_an_accelerator_serves_or_not_is_shown(
    control_plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the device signed it; a device without accelerators says nothing of them."""
    member = control_plane.enrol("press-1")
    said = report(member, 1)
    (family,) = said.families
    assert family.serving is not None
    on_cpu = replace(family.serving, delegate="cpu", delegate_reason="npu: it took none of it")
    others = (replace(family, serving=on_cpu), replace(family, family="sounds"))
    signed = envelopes.sign(replace(said, families=others), member.signer)
    control_plane.reports.handle(member.id, signed)
    with serving(control_plane.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        monkeypatch.setenv("SHOAL_TOKEN", control_plane.token(Role.VIEWER))
        with pytest.raises(SystemExit):
            command.main(["device", "show", member.id])
    shown = capsys.readouterr().out
    assert "digits on cpu: npu: it took none of it" in shown
    assert "sounds on" not in shown


def test_a_restarted_device_counts_anew(control_plane: ControlPlane) -> None:
    """A new incarnation begins its own count, so that a reset counter is no replay."""
    member = control_plane.enrol("press-1")
    for incarnation in ("0" * 16, "1" * 16):
        signed = envelopes.sign(report(member, 1, incarnation=incarnation), member.signer)
        control_plane.reports.handle(member.id, signed)
    assert control_plane.devices.get(member.id).agent_version == "1.1"


def test_an_ended_incarnation_is_not_believed_any_more(control_plane: ControlPlane) -> None:
    """A true report that a broker kept back until its device had restarted changes nothing."""
    member = control_plane.enrol("press-1")

    def tell(incarnation: str, counter: int, version: str) -> None:
        said = report(member, counter, incarnation=incarnation, agent_version=version)
        control_plane.reports.handle(member.id, envelopes.sign(said, member.signer))

    tell("0" * 16, 1, "1.0")
    tell("1" * 16, 1, "1.1")
    with pytest.raises(ReportReplayed):
        tell("0" * 16, 7, "kept back")
    tell("1" * 16, 2, "1.2")
    assert control_plane.devices.get(member.id).agent_version == "1.2"


def test_only_the_device_itself_is_believed(control_plane: ControlPlane) -> None:
    """A report signed by another device, or for another device, is refused."""
    one, other = control_plane.enrol("press-1"), control_plane.enrol("press-2")
    forged = envelopes.sign(report(one, 1), other.signer)
    with pytest.raises(SignatureInvalid):
        control_plane.reports.handle(one.id, forged)
    with pytest.raises(AuthenticationFailed):
        control_plane.reports.handle(other.id, envelopes.sign(report(one, 1), other.signer))
    with pytest.raises(NotFound):
        control_plane.reports.handle("nobody", forged)
    assert control_plane.devices.reported(one.id) == []


def test_an_old_last_will_hurts_no_new_connection(control_plane: ControlPlane) -> None:
    """The will of a connection that was replaced leaves the device online."""
    member = control_plane.enrol("press-1")

    def say(connection: str, *, online: bool) -> None:
        message = Presence(online=online, connection=connection)
        control_plane.presences.handle(member.id, codec.encode(message))

    say("2" * 32, online=True)
    say("3" * 32, online=True)
    say("2" * 32, online=False)
    assert control_plane.devices.get(member.id).is_online
    say("3" * 32, online=False)
    assert not control_plane.devices.get(member.id).is_online


def test_a_refused_message_stops_no_other(control_plane: ControlPlane) -> None:
    """The inbox counts what it refuses by code, and goes on with the next message."""
    member = control_plane.enrol("press-1")
    together: list[object] = []

    def fail(_device: str, _payload: bytes) -> None:
        raise ZeroDivisionError

    suspects: list[tuple[str, str]] = []
    inbox = Inbox(
        {Up.HELLO: control_plane.assignments.handle, Up.REQUEST: fail},
        together.append,
        lambda device, error: suspects.append((device, error.code)),
    )
    inbox.handle(
        [
            ("shoal/v1/d/../up/hello", b"x"),
            (topics.up(member.id, Up.HELLO), b"nonsense"),
            (topics.up(member.id, Up.REQUEST), b"x"),
            (topics.up(member.id, Up.TELEMETRY), b"1"),
            (topics.up(member.id, Up.HELLO), codec.encode(hello())),
            (topics.up(member.id, Up.TELEMETRY), b"2"),
        ]
    )
    assert inbox.refused == {"wire.malformed": 2, ShoalError.code: 1}
    assert suspects == [(member.id, "wire.malformed")]
    assert together == [[(member.id, b"1"), (member.id, b"2")]]
    assert len(control_plane.sent.messages) == 1


def test_a_device_that_is_not_enrolled_here_is_listed(tmp_path: Path) -> None:
    """It was enrolled after the backup; once it is enrolled again it is listed no more."""
    control_plane = ControlPlane(tmp_path)
    strangers = Strangers(control_plane.devices.exists, control_plane.clock)
    assignments = Assignments(
        control_plane.devices,
        control_plane.director,
        control_plane.sent,
        control_plane.clock,
        refused=strangers.note,
    )
    control_plane.enrol("dev-1")
    control_plane.revocations.revoke("dev-1")
    for device_id in ("dev-1", "dev-2", "dev-2", "dev-3"):
        assignments.handle(device_id, codec.encode(hello()))
    assert [(each.id, each.hellos) for each in strangers.list()] == [("dev-2", 2), ("dev-3", 1)]
    assert control_plane.sent.messages == []
    control_plane.enrol("dev-2")
    assert [each.id for each in strangers.list()] == ["dev-3"]
    control_plane.close()


def test_strangers_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names somebody says hello under."""
    monkeypatch.setattr("control_plane.fleet.strangers.STRANGERS_MAX", 3)
    strangers = Strangers(lambda _device_id: False, lambda: 1.0)
    for number in range(10):
        strangers.note(f"dev-{number}")
    strangers.note("dev-0")
    assert [(each.id, each.hellos) for each in strangers.list()] == [
        ("dev-0", 2),
        ("dev-1", 1),
        ("dev-2", 1),
    ]
