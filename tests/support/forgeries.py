"""What a thief of the broker, or of another device, can say in a device's or our name."""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import TYPE_CHECKING

from agent import identity
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import codec, messages, topics
from firmware_bundles.wire.topics import Down, Up
from fleet import wait_until
from support.attack_row import Attack, Victim, collected
from support.scene import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firmware_bundles.trust.keys import Signer
    from fleet import Device
    from support.scene import Scene

_TAG_BYTES = 32
ROWS: list[Attack] = []
_attack = collected(ROWS)


# Telemetry and its acknowledgements.


@_attack("forged acknowledgement", Victim.DEVICE, "trust.authentication_failed")
def forged_acknowledgement(scene: Scene) -> Iterator[None]:
    """While the control plane is away, acknowledge in its place, so that the device forgets."""
    topic = topics.up(scene.device.id, Up.TELEMETRY)
    code = "trust.authentication_failed"
    before = scene.refusals(code)
    _await_telemetry(scene)
    sent = len(scene.thief.heard(topic))
    with scene.control_plane_stopped():
        assert scene.version_that_answers() == "2"
        wait_until(lambda: len(scene.thief.heard(topic)) > sent, "telemetry", PATIENCE_S)
        segment = codec.decode(messages.Segment, scene.thief.heard(topic)[-1][_TAG_BYTES:])
        down = topics.down(scene.device.id, Down.ACKNOWLEDGEMENT)
        forged = messages.Acknowledgement(key=segment.key)
        scene.thief.say(down, codec.seal(secrets.token_bytes(32), down, forged))
        scene.await_refusal(code, before)
    yield
    _await_telemetry(scene)


@_attack("forged telemetry", Victim.CONTROL_PLANE, "trust.authentication_failed")
def altered_telemetry(scene: Scene) -> Iterator[None]:
    """Change what the device sent of its predictions, and send it as the device's."""
    _await_telemetry(scene)
    topic = topics.up(scene.device.id, Up.TELEMETRY)
    genuine = scene.thief.heard(topic)[-1]
    scene.thief.say(topic, genuine[:-1] + bytes([genuine[-1] ^ 1]))
    yield
    _await_telemetry(scene)


@_attack("forged telemetry", Victim.NOBODY, "")
def replayed_telemetry(scene: Scene) -> Iterator[None]:
    """Send again what the device sent: each answer is still counted once."""
    _await_telemetry(scene)
    topic = topics.up(scene.device.id, Up.TELEMETRY)
    for segment in scene.thief.heard(topic)[-3:]:
        scene.thief.say(topic, segment)
    yield
    _await_telemetry(scene)


# What is said to the control plane in a device's name.


@_attack("replayed report", Victim.CONTROL_PLANE, "trust.report_replayed")
def replayed_report(scene: Scene) -> Iterator[None]:
    """Send again a report that the device once signed."""
    topic = topics.up(scene.device.id, Up.REPORT)
    scene.thief.say(topic, scene.thief.heard(topic)[0])
    yield


@_attack("forged report", Victim.CONTROL_PLANE, "trust.signature_invalid")
def altered_report(scene: Scene) -> Iterator[None]:
    """Change what the device signed: it would serve another release."""
    topic = topics.up(scene.device.id, Up.REPORT)
    envelope = json.loads(scene.thief.heard(topic)[-1])
    payload = base64.b64decode(envelope["payload"])
    forged = payload.replace(b'"version":"2"', b'"version":"4"').replace(
        b'"counter":', b'"counter":9'
    )
    assert forged != payload
    envelope["payload"] = base64.b64encode(forged).decode()
    scene.thief.say(topic, json.dumps(envelope).encode())
    yield


@_attack("forged report", Victim.CONTROL_PLANE, "trust.signature_invalid")
def report_signed_by_another_device(scene: Scene) -> Iterator[None]:
    """Let a stolen device sign a report for this one, and send it as this one's."""
    forged = envelopes.sign(_report(scene.device), _signer(scene.other))
    scene.thief.say(topics.up(scene.device.id, Up.REPORT), forged)
    yield


@_attack("forged report", Victim.CONTROL_PLANE_OF_THE_OTHER, "trust.authentication_failed")
def report_about_another_device(scene: Scene) -> Iterator[None]:
    """Let a stolen device speak, where it may speak, about this one."""
    forged = envelopes.sign(_report(scene.device), _signer(scene.other))
    scene.thief.say(topics.up(scene.other.id, Up.REPORT), forged)
    yield


@_attack("forged presence", Victim.NOBODY, "")
def last_will_of_no_connection(scene: Scene) -> Iterator[None]:
    """Say that the device has gone: a will that is not of its connection changes nothing."""
    gone = messages.Presence(online=False, connection=secrets.token_hex(16))
    scene.thief.retain(topics.up(scene.device.id, Up.PRESENCE), codec.encode(gone))
    yield
    assert scene.shown()["is_online"]


def _await_telemetry(scene: Scene) -> None:
    # Rows run in any order: the first of them must not find a device that never answered.
    scene.version_that_answers()
    wait_until(scene.counts_each_answer_once, "each answer is counted once", PATIENCE_S)


def _report(device: Device) -> messages.Report:
    return messages.Report(
        device=device.id,
        incarnation=secrets.token_hex(8),
        counter=1,
        time=time.time(),
        agent_version="forged",
        families=(),
    )


def _signer(device: Device) -> Signer:
    key = device.state / identity.FOLDER / identity.KEY
    return envelopes.device_signer(device.id, key.read_bytes())
