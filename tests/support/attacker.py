"""Who owns the broker and has stolen the control plane's online keys.

It publishes what it likes and signs what the director may sign; it does not hold the owners' keys.
The broker is the one without certificates: there, whoever reaches it can do all this.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from control_plane.releases.online_keys import OnlineKeys
from firmware_bundles.identifiers import target_path
from firmware_bundles.trust import envelopes, keys, publisher
from firmware_bundles.wire import codec, messages, topics
from firmware_bundles.wire.topics import Down

if TYPE_CHECKING:
    from fleet import Installation

_PATIENCE_S = 10.0


class Attacker:
    """A client of the broker with all rights, for one installation; close it afterwards."""

    def __init__(self, installation: Installation) -> None:
        self._data = installation.data
        self.seen: dict[str, list[bytes]] = {}
        self._online = OnlineKeys.load_or_create(self._data / "keys")
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.on_message = self._remember
        connected = threading.Event()
        self._client.on_connect = lambda *_: connected.set()
        self._client.connect("127.0.0.1", installation.broker_port)
        self._client.loop_start()
        assert connected.wait(_PATIENCE_S)

    def _remember(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self.seen.setdefault(message.topic, []).append(bytes(message.payload))

    def listen(self, topic: str) -> None:
        """Remember all that is said on a topic from now on, and what it retains."""
        self._client.subscribe(topic, qos=1)

    def retained(self, topic: str) -> bytes:
        """Return what a topic retains."""
        self.listen(topic)
        deadline = time.monotonic() + _PATIENCE_S
        while topic not in self.seen and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.seen[topic][-1]

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Say something where only the control plane should."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(_PATIENCE_S)

    def assign(self, device: str, order: messages.Order) -> None:
        """Send a device an order that the director's stolen key signed."""
        now = time.time()
        assignment = messages.Assignment(
            device=device, issued=now, expires=now + 60, orders=(order,)
        )
        envelope = envelopes.sign(assignment, self._online.director)
        self.publish(topics.down(device, Down.ASSIGNMENT), envelope, retain=False)

    def take_the_family_over(self, family: str, path: str, manifest: bytes) -> None:
        """Publish a role signed by a key of its own, under a snapshot that the stolen keys sign."""
        hint = codec.decode(messages.RepositoryHint, self.retained(topics.REPOSITORY_HINT))
        files = {name: self.retained(topics.repository_file(name)) for name in hint.files}
        newest = {role: self._newest(files, role) for role in ("snapshot", "targets", family)}
        foreign, now = keys.generate(), time.time()
        role = publisher.create_family(foreign, now=now)
        for filler in range(newest[family] - 1):  # only a newer version is looked at
            role = publisher.add_release(
                role,
                foreign,
                path=target_path(family, f"filler-{filler}"),
                manifest=bytes([filler]),
                now=now,
            )
        role = publisher.add_release(role, foreign, path=path, manifest=manifest, now=now)
        snapshot = publisher.create_snapshot(
            self._online.snapshot,
            version=newest["snapshot"] + 1,
            files={"targets": files[f"{newest['targets']}.targets.json"], family: role},
            now=now,
        )
        timestamp = publisher.create_timestamp(
            self._online.timestamp, version=int(now), snapshot=snapshot, now=now
        )
        version = publisher.describe(role).version
        fresh = {
            f"{version}.{family}.json": role,
            f"{newest['snapshot'] + 1}.snapshot.json": snapshot,
            "timestamp.json": timestamp,
        }
        for name, body in fresh.items():
            self.publish(topics.repository_file(name), body, retain=True)
        false_hint = messages.RepositoryHint(
            root=hint.root, files=tuple(dict.fromkeys((*hint.files, *fresh)))
        )
        self.publish(topics.REPOSITORY_HINT, codec.encode(false_hint), retain=True)

    @staticmethod
    def _newest(files: dict[str, bytes], role: str) -> int:
        return max(int(name.split(".")[0]) for name in files if name.endswith(f".{role}.json"))

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()
        if (connection := self._client.socket()) is not None:
            connection.close()  # the thread ended before it came to this
