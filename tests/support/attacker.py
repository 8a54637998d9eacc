"""Who has taken the broker over and stolen the control plane's online keys.

It reads everything, publishes what it likes, and signs what snapshot, timestamp and director may
sign; it does not hold the owners' keys. What it does with that stands in `attacks`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from control_plane.releases.online_keys import OnlineKeys
from firmware_bundles.trust import envelopes, publisher
from firmware_bundles.wire import codec, messages, topics
from firmware_bundles.wire.topics import Down
from support.stolen_broker import PASSWORD, THIEF

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 10.0


class Attacker:
    """A client of the broker with all rights; `data` is the folder of the control plane."""

    def __init__(self, port: int, data: Path) -> None:
        self._data = data
        self._seen: dict[str, list[bytes]] = {}
        self._own: set[bytes] = set()
        self._genuine: dict[str, bytes] = {}
        self._touched: set[str] = set()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, THIEF, protocol=mqtt.MQTTv311)
        self._client.username_pw_set(THIEF, PASSWORD)
        self._client.on_message = self._remember
        subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe(topics.ALL, qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(_PATIENCE_S)

    def _remember(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if message.payload not in self._own:
            self._seen.setdefault(message.topic, []).append(bytes(message.payload))

    @property
    def online(self) -> OnlineKeys:
        """The control plane's online keys as they are now."""
        return OnlineKeys.load_or_create(self._data / "keys")

    def heard(self, topic: str) -> list[bytes]:
        """Return all that others said on a topic, the newest last; waits for the first."""
        deadline = time.monotonic() + _PATIENCE_S
        while topic not in self._seen:
            assert time.monotonic() < deadline, f"nothing was said on {topic}"
            time.sleep(0.05)
        return list(self._seen[topic])

    def repository(self, name: str) -> bytes:
        """Return what a file of the repository is now."""
        return self.heard(topics.repository_file(name))[-1]

    def chunk(self, digest: str) -> bytes:
        """Return a chunk."""
        return next(body for body in self.heard(topics.chunk(digest)) if body)

    def hint(self) -> messages.RepositoryHint:
        """Return what the repository is said to hold now."""
        return codec.decode(messages.RepositoryHint, self.heard(topics.REPOSITORY_HINT)[-1])

    def newest(self, role: str) -> int:
        """Return the version of a role."""
        names = [name for name in self.hint().files if name.endswith(f".{role}.json")]
        return max(int(name.split(".")[0]) for name in names)

    def say(self, topic: str, payload: bytes) -> None:
        """Say something where only somebody else should."""
        self._forge(topic, payload)
        self._client.publish(topic, payload, qos=1).wait_for_publish(_PATIENCE_S)

    def retain(self, topic: str, payload: bytes) -> None:
        """Put something in the place of what the broker retains; nothing clears it."""
        if topic not in self._touched:
            self._touched.add(topic)
            self._genuine[topic] = self._seen.get(topic, [b""])[-1]
        self._forge(topic, payload)
        info = self._client.publish(topic, payload, qos=1, retain=True)
        info.wait_for_publish(_PATIENCE_S)

    def _forge(self, topic: str, payload: bytes) -> None:
        if payload not in self._seen.get(topic, ()):
            self._own.add(payload)

    def restore(self) -> None:
        """Give back what was there before."""
        for topic in sorted(self._touched, key=lambda each: each == topics.REPOSITORY_HINT):
            info = self._client.publish(topic, self._genuine[topic], qos=1, retain=True)
            info.wait_for_publish(_PATIENCE_S)
        self._touched.clear()
        self._genuine.clear()

    def retain_files(self, files: dict[str, bytes], *, root: int | None = None) -> None:
        """Retain files of a repository, and the hint that names them beside the genuine ones."""
        hint = self.hint()
        for name, body in files.items():
            self.retain(topics.repository_file(name), body)
        false_hint = messages.RepositoryHint(
            root=root or hint.root, files=tuple(sorted({*hint.files, *files}))
        )
        self.retain(topics.REPOSITORY_HINT, codec.encode(false_hint))

    def swap_file(self, name: str, body: bytes) -> None:
        """Put something in the place of a file that devices have collected already."""
        hint = self.hint()
        without = tuple(each for each in hint.files if each != name)
        short = messages.RepositoryHint(root=hint.root, files=without)
        self.retain(topics.REPOSITORY_HINT, codec.encode(short))
        self.retain(topics.repository_file(name), body)
        self.retain(topics.REPOSITORY_HINT, codec.encode(hint))

    def order(self, device: str, *orders: messages.Order) -> None:
        """Give orders that the director's stolen key signed."""
        self.say_assignment(device, self.assignment(device, *orders))

    def repeat_assignment(self, device: str) -> None:
        """Say the last assignment again: it lets the device look at the repository."""
        self.say_assignment(device, self.heard(topics.down(device, Down.ASSIGNMENT))[-1])

    def say_assignment(self, device: str, envelope: bytes) -> None:
        """Say something in the place of the director."""
        self.say(topics.down(device, Down.ASSIGNMENT), envelope)

    def assignment(
        self, device: str, *orders: messages.Order, age_s: float = 0.0, life_s: float = 60.0
    ) -> bytes:
        """Return orders that the director's stolen key signed, so long ago, for so long."""
        issued = time.time() - age_s
        assignment = messages.Assignment(
            device=device, issued=issued, expires=issued + life_s, orders=orders
        )
        return envelopes.sign(assignment, self.online.director)

    def timestamp(self, version: int, snapshot: bytes, *, age_s: float = 0.0) -> bytes:
        """Return a timestamp that the stolen key signed, so long ago."""
        return publisher.create_timestamp(
            self.online.timestamp, version=version, snapshot=snapshot, now=time.time() - age_s
        )

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()
        if (connection := self._client.socket()) is not None:
            connection.close()  # the thread ended before it came to this
