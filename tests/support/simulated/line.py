"""The MQTT session of one simulated device, on an event loop that all devices share.

What it says and subscribes to on its own is what `agent.connection` does: last will, presence, own
branch, hint. paho has no thread here: the loop tells it when its socket is ready.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.identity import Broker
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Presence

KEEPALIVE_S: Final = 60
_PACKET_BYTES_MAX: Final = 128 * 1024
_QUEUED_MAX: Final = 100
_IN_FLIGHT_MAX: Final = 20
_CONNECT_S_MAX: Final = 30.0
_POLL_S: Final = 0.1
_TCP_INFO_BYTES: Final = 256
_TCP_COUNTS: Final = (120, "QQ")  # tcpi_bytes_acked, tcpi_bytes_received (linux/tcp.h)


class Ends(NamedTuple):
    """Whom a line tells what happens, in the loop's thread."""

    message: Callable[[str, bytes], None]
    change: Callable[[bool], None]


class Line:
    """One session at a time; `connect` and `drop` may alternate for ever."""

    def __init__(self, device: str, broker: Broker, tls: ssl.SSLContext, ends: Ends) -> None:
        self._device = device
        self._broker = broker
        self._ends = ends
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._carried = 0
        self._connected = asyncio.Event()
        self._nonce = secrets.token_hex(16)
        self.is_up = False
        self._is_dialing = False
        self._client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=device, protocol=MQTTProtocolVersion.MQTTv5
        )
        client.max_queued_messages_set(_QUEUED_MAX)
        client.max_inflight_messages_set(_IN_FLIGHT_MAX)
        client.tls_set_context(tls)
        client.will_set(*self._presence(is_online=False), qos=1, retain=True)
        client.on_socket_close = self._closing
        client.on_socket_register_write = lambda *_: self._hand(self._wants_to_write)
        client.on_socket_unregister_write = lambda *_: self._hand(self._has_written)
        client.on_connect = self._accepted
        client.on_disconnect = lambda *_: self._hand(self._lost)
        client.on_message = self._arrived

    @property
    def wire_bytes(self) -> int:
        """What TCP carried for this device, both ways, TLS and its handshakes included."""
        return self._carried + _carried(self._client.socket())

    async def connect(self) -> bool:
        """Try once; return whether the broker accepted it."""
        self._connected.clear()
        if self._client.socket() is not None:  # nobody answered on it
            self.drop()
            await asyncio.sleep(_POLL_S)
        with suppress(OSError, TimeoutError):
            # A handshake blocks, and there are a thousand of them. Until it is over the loop leaves
            # the socket alone: two threads in one TLS connection end the process.
            self._is_dialing = True
            try:
                await asyncio.to_thread(self._dial)
            finally:
                self._is_dialing = False
            self._opened()
            async with asyncio.timeout(_CONNECT_S_MAX):
                await self._connected.wait()
        return self.is_up

    def drop(self) -> None:
        """End the connection without a word, as a network does."""
        if (line := self._client.socket()) is not None and not self._is_dialing:
            with suppress(OSError):
                # The loop notices, and paho tidies up.
                cast("ssl.SSLSocket", line).shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Say that the device leaves, and close the session in order."""
        if self.is_up:
            self._client.publish(*self._presence(is_online=False), qos=1, retain=True)
            self._client.disconnect()

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send once (QoS 1), from any thread, and return whether the session took it."""
        if not self.is_up:
            return False
        if threading.get_ident() != self._thread:  # two of them must not write to one socket
            self._hand(lambda: self.publish(topic, payload))
            return True
        return self._client.publish(topic, payload, qos=1).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe (QoS 1); retained messages come anew."""
        if self.is_up and filters:
            self._client.subscribe([(each, 1) for each in filters])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take subscriptions back."""
        if self.is_up and filters:
            self._client.unsubscribe(list(filters))

    def misc(self) -> None:
        """Keep the session alive; to be called now and then."""
        if not self._is_dialing:
            self._client.loop_misc()

    def _dial(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = _PACKET_BYTES_MAX
        self._client.connect(
            self._broker.host,
            self._broker.port,
            KEEPALIVE_S,
            clean_start=True,
            properties=properties,
        )

    def _presence(self, *, is_online: bool) -> tuple[str, bytes]:
        said = Presence(online=is_online, connection=self._nonce)
        return topics.up(self._device, topics.Up.PRESENCE), codec.encode(said)

    def _hand(self, callback: Callable[[], object]) -> None:
        """Do something in the loop's thread: at once where that is this one."""
        if threading.get_ident() == self._thread:
            callback()
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(callback)

    def _opened(self) -> None:
        if (line := self._client.socket()) is not None:
            self._loop.add_reader(line, self._read)
            if self._client.want_write():
                self._loop.add_writer(line, self._client.loop_write)

    def _closing(self, _client: mqtt.Client, _data: object, line: Any) -> None:  # noqa: ANN401
        self._carried += _carried(line)
        self._loop.remove_reader(line)
        self._loop.remove_writer(line)

    def _wants_to_write(self) -> None:
        if (line := self._client.socket()) is not None and not self._is_dialing:
            self._loop.add_writer(line, self._client.loop_write)

    def _has_written(self) -> None:
        if (line := self._client.socket()) is not None and not self._is_dialing:
            self._loop.remove_writer(line)

    def _read(self) -> None:
        """Read until TLS holds nothing back: the socket says nothing of what was decrypted."""
        while self._client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            line = self._client.socket()
            if not isinstance(line, ssl.SSLSocket) or not line.pending():
                return

    def _accepted(
        self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _more: object
    ) -> None:
        if reason.is_failure:
            return
        client.subscribe([(topics.all_down(self._device), 1), (topics.REPOSITORY_HINT, 1)])
        client.publish(*self._presence(is_online=True), qos=1, retain=True)
        self._hand(self._rose)

    def _rose(self) -> None:
        self.is_up = True
        self._connected.set()
        self._ends.change(True)

    def _lost(self) -> None:
        if self.is_up:
            self.is_up = False
            self._ends.change(False)

    def _arrived(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self._ends.message(message.topic, bytes(message.payload))


def _carried(line: Any) -> int:  # noqa: ANN401 - a socket, in paho's own type
    """Return what TCP says of a connection (tcp(7), TCP_INFO); 0 where there is none."""
    with suppress(OSError, AttributeError):
        facts = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        offset, form = _TCP_COUNTS
        return sum(struct.unpack_from(f"={form}", facts, offset))
    return 0
