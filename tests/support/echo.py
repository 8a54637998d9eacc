"""A broker that says telemetry and acknowledgements again, at random, long after they were said.

It is a client with all rights: whoever receives what it says cannot tell it from the first time.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Down, Up
from support.stolen_broker import PASSWORD, THIEF

_KEPT_MAX: Final = 2_000
_EVERY_S: Final = 0.03


class Echo:
    """Repeats what it heard until closed; `said` counts."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self.said = 0
        self._rng = rng
        self._heard: deque[tuple[str, bytes]] = deque(maxlen=_KEPT_MAX)
        self._own: set[int] = set()
        self._ended = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, THIEF, protocol=mqtt.MQTTv311)
        self._client.username_pw_set(THIEF, PASSWORD)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(topics.up("+", Up.TELEMETRY), 0), (topics.down("+", Down.ACKNOWLEDGEMENT), 0)]
        )
        self._client.on_message = self._remember
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._repeat, name="echo", daemon=True)
        self._thread.start()

    def _remember(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        heard = (message.topic, bytes(message.payload))
        if hash(heard) not in self._own:
            self._own.add(hash(heard))
            self._heard.append(heard)

    def _repeat(self) -> None:
        while not self._ended.wait(_EVERY_S):
            if self._heard and self._client.is_connected():
                topic, payload = self._rng.choice(list(self._heard))
                self._client.publish(topic, payload, qos=1)
                self.said += 1

    def close(self) -> None:
        """Be silent."""
        self._ended.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()
        if (connection := self._client.socket()) is not None:
            connection.close()
