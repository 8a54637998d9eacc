"""What a thief of broker and control plane can try, and that the running model stays untouched."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from firmware_bundles import manifest
from firmware_bundles.chunks import digest_of
from firmware_bundles.wire import codec, messages, topics
from firmware_bundles.wire.topics import Down
from fleet import Device, Installation, wait_until
from support.attacker import Attacker
from support.installations import roll_out, serve_first_model

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": [0.5] * 64}


def _version_that_answers(device: Device) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(device.socket))) as client:
        answer = client.post("http://shoal/v2/models/digits/infer", json={"inputs": [IMAGE]})
    assert answer.status_code == httpx.codes.OK, answer.text
    return str(answer.json()["model_version"])


class _Fleet:
    """One device that serves model 2, below which the owners allow nothing."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        (self.device,) = installation.devices.values()
        self.releases = {row["version"]: row for row in installation.get("/releases")}

    def _shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = self.installation.get(f"/devices/{self.device.id}")
        return shown

    def order(self, path: str, digest: str, length: int) -> messages.Order:
        """An order under a generation that is newer than the device's."""
        return messages.Order(
            family="digits",
            generation=int(time.time()) + 10_000,
            model=messages.ModelReference(path=path, digest=digest, length=length),
            rollout="attack",
            arm=messages.Arm.CANDIDATE,
        )

    def require_refused(self, code: str) -> None:
        """The device's own report carries the code; model 2 still answers."""
        wait_until(
            lambda: code in {row["code"] for row in self._shown()["detected"]},
            f"{code} in the device's report",
            40,
        )
        (reported,) = self._shown()["reported"]
        assert reported["serving_digest"] == self.releases["2"]["digest"]
        assert _version_that_answers(self.device) == "2"


def _has_orders(envelope: bytes) -> bool:
    payload = base64.b64decode(json.loads(envelope)["payload"])
    return bool(codec.decode(messages.Assignment, payload).orders)


def _replay(fleet: _Fleet, attacker: Attacker) -> None:
    topic = topics.down(fleet.device.id, Down.ASSIGNMENT)
    first = next(envelope for envelope in attacker.seen[topic] if _has_orders(envelope))
    attacker.publish(topic, first, retain=False)
    fleet.require_refused("trust.assignment_replayed")


def _below_floor(fleet: _Fleet, attacker: Attacker) -> None:
    old = fleet.releases["1"]
    attacker.assign(fleet.device.id, fleet.order(old["path"], old["digest"], old["length"]))
    fleet.require_refused("trust.release_below_floor")


def _flipped_chunk(fleet: _Fleet, attacker: Attacker) -> None:
    wanted = fleet.releases["3"]
    body = attacker.retained(topics.chunk(wanted["digest"]))
    model = manifest.parse(body).file("model.tflite").chunks[0]
    whole = attacker.retained(topics.chunk(model))
    attacker.publish(topics.chunk(model), bytes([whole[0] ^ 1]) + whole[1:], retain=True)
    roll_out(fleet.installation, "flipped", "3", expected=3)
    fleet.require_refused("transfer.chunk_corrupt")
    attacker.publish(topics.chunk(model), whole, retain=True)


def _foreign_manifest(fleet: _Fleet, attacker: Attacker) -> None:
    known = attacker.retained(topics.chunk(fleet.releases["3"]["digest"]))
    body = known.replace(b'"version":"3"', b'"version":"9"')
    attacker.publish(topics.chunk(digest_of(body)), body, retain=True)
    attacker.take_the_family_over("digits", "digits/9/manifest.json", body)
    attacker.assign(
        fleet.device.id, fleet.order("digits/9/manifest.json", digest_of(body), len(body))
    )
    fleet.require_refused("trust.signature_invalid")


@pytest.mark.timeout(300)
def test_each_attack_is_refused_reported_and_changes_nothing(
    install: Callable[[str], Installation],
) -> None:
    """A replay, a release below the floor, a flipped byte, a foreign signature: all are refused."""
    installation = install("amqtt")
    installation.start_server()
    attacker = Attacker(installation)
    try:
        attacker.listen(topics.down("+", Down.ASSIGNMENT))
        serve_first_model(installation, 1)
        installation.publish("v2", "2", "--min-release", "2")
        roll_out(installation, "second", "2")
        installation.publish("bad", "3")
        fleet = _Fleet(installation)
        for attack in (_replay, _below_floor, _flipped_chunk, _foreign_manifest):
            attack(fleet, attacker)
    finally:
        attacker.close()
