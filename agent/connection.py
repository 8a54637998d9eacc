"""The one MQTT session of a device. The only module of the agent that knows paho.

paho runs its own thread; everything it says is handed to the event loop. Sessions are clean: each
connect subscribes anew, and what must not be lost is queued in a database, never here.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent import identity as identities
from agent import log, tls
from firmware_bundles.errors import BrokerUnreachable, StateDamaged
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Presence

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

    from agent.clock import Clock
    from agent.config import Config
    from agent.identity import Identity

# paho's own queue stays small: the queue that lasts is a database.
_QUEUED_MAX: Final = 100
_IN_FLIGHT_MAX: Final = 20
# The largest thing a peer may send: a chunk or a sealed batch, with its topic.
_PACKET_BYTES_MAX: Final = 128 * 1024
_PROTOCOL_UNSUPPORTED: Final = 0x84  # MQTT 5, section 3.2.2.2
# A broker of 3.1.1 may also hang up on level 5, or misread its last will and wait for more.
_HANGUPS_MAX: Final = 2
_SILENCE_S_MAX: Final = 10.0
_SILENCE_LOOPBACK_S_MAX: Final = 1.0
_STOP_S_MAX: Final = 2.0
_THREAD: Final = "paho-mqtt-client-"  # how paho calls its own


class Message(NamedTuple):
    """Something that arrived."""

    topic: str
    payload: bytes


class Connection:
    """Keeps the session up until stopped.

    Its methods belong to the event loop's thread; `publish` may be called from any.
    """

    def __init__(
        self,
        identity: Identity,
        config: Config,
        *,
        clock: Clock,
        on_message: Callable[[Message], None],
        on_change: Callable[[bool], None],
        on_sent: Callable[[str, bytes], None] = lambda _topic, _payload: None,
    ) -> None:
        self._identity = identity
        self._config = config
        self._clock = clock
        self._on_message = on_message
        self._on_change = on_change
        self._on_sent = on_sent
        self._loop = asyncio.get_running_loop()
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._hangups = 0
        self._silence: asyncio.TimerHandle | None = None
        self._is_up = False
        self._nonce = ""
        self._client: mqtt.Client | None = None

    @property
    def is_up(self) -> bool:
        """Whether the broker has accepted this device and not gone since."""
        return self._is_up

    def fault(self) -> str:
        """Return what is wrong with paho's thread, which would be silent for ever, or nothing."""
        name = f"{_THREAD}{self._identity.device}"
        is_dead = self._client is not None and all(t.name != name for t in threading.enumerate())
        return "the connection's thread ended" if is_dead else ""

    def start(self) -> None:
        """Begin to connect; tries for ever. Raises StateDamaged if the identity is unusable."""
        self._client = client = self._build()
        broker = self._identity.broker
        options: dict[str, Any] = {"keepalive": self._config.keepalive_s}
        if self._protocol is MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = _PACKET_BYTES_MAX
            options |= {"clean_start": True, "properties": properties}
        client.connect_async(broker.host, broker.port, **options)
        client.loop_start()

    async def stop(self) -> None:
        """Say that this device leaves, and close the session."""
        client, self._client = self._client, None
        self._answered()
        if client is None:
            return
        if self._is_up:
            info = client.publish(*self._presence(is_online=False), qos=1, retain=True)
            with suppress(ValueError, RuntimeError):
                await asyncio.to_thread(info.wait_for_publish, _STOP_S_MAX)
        self._is_up = False
        await asyncio.to_thread(_close, client)

    async def renew(self) -> None:
        """Begin a new session with the identity that is on disk now."""
        was_up = self._is_up
        await self.stop()
        if was_up:
            self._on_change(False)
        self.start()

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send once (QoS 1) and return whether the session took it; nothing is kept while down."""
        client = self._client  # the forwarder asks from another thread
        if client is None or not self._is_up:
            return False
        info = client.publish(topic, payload, qos=1)
        is_taken = info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS
        if is_taken:
            self._on_sent(topic, payload)
        return is_taken

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe (QoS 1); retained messages come anew. Lost with the session."""
        if self._client is not None and self._is_up and filters:
            self._client.subscribe([(each, 1) for each in filters])

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take subscriptions back."""
        if self._client is not None and self._is_up and filters:
            self._client.unsubscribe(list(filters))

    def _build(self) -> mqtt.Client:
        clean = None if self._protocol is MQTTProtocolVersion.MQTTv5 else True
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._identity.device,
            clean_session=clean,
            protocol=self._protocol,
        )
        client.max_queued_messages_set(_QUEUED_MAX)
        client.max_inflight_messages_set(_IN_FLIGHT_MAX)
        self._nonce = secrets.token_hex(16)
        client.will_set(*self._presence(is_online=False), qos=1, retain=True)
        if self._identity.broker.is_tls:
            client.tls_set_context(tls_context(self._identity, self._clock))
        self._jitter(client)
        client.on_socket_open = self._guarded(self._reached)
        client.on_connect = self._guarded(self._connected)
        client.on_disconnect = self._guarded(self._disconnected)
        client.on_connect_fail = self._guarded(self._failed)
        client.on_message = self._guarded(self._received)
        return client

    def _jitter(self, client: mqtt.Client) -> None:
        """Spread the next attempts of a fleet over the whole span."""
        low, high = self._config.reconnect_s_min, self._config.reconnect_s_max
        # paho computes with these numbers only; its signature asks for whole ones.
        client.reconnect_delay_set(random.uniform(low, high), high)  # type: ignore[arg-type] # noqa: S311

    def _presence(self, *, is_online: bool) -> tuple[str, bytes]:
        presence = Presence(online=is_online, connection=self._nonce)
        return (
            topics.up(self._identity.device, topics.Up.PRESENCE),
            codec.encode(presence),
        )

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return a callback that cannot end paho's thread, which would be silent for ever."""

        def run(*arguments: Any) -> None:  # noqa: ANN401 - paho's callbacks differ
            try:
                callback(*arguments)
            except Exception as error:  # noqa: BLE001
                log.event("connection-callback-failed", error=repr(error))

        return run

    # From here on in paho's thread; what it learns goes to the loop.

    def _reached(self, client: mqtt.Client, _data: object, _socket: object) -> None:
        self._hand(self._await_answer, client)

    def _connected(
        self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _more: object
    ) -> None:
        if reason.is_failure:
            self._hand(self._refused, client, str(reason), reason.value)
            return
        client.subscribe([(topics.all_down(self._identity.device), 1), (topics.REPOSITORY_HINT, 1)])
        client.publish(*self._presence(is_online=True), qos=1, retain=True)
        self._hand(self._change, client, True)

    def _disconnected(
        self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _more: object
    ) -> None:
        self._jitter(client)
        self._hand(self._lost, client, str(reason))

    def _failed(self, client: mqtt.Client, _data: object) -> None:
        self._jitter(client)
        self._hand(self._unreachable, client)

    def _received(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if len(message.payload) <= _PACKET_BYTES_MAX:
            self._hand(self._on_message, Message(message.topic, bytes(message.payload)))

    def _hand(self, callback: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the agent is ending
            self._loop.call_soon_threadsafe(callback, *arguments)

    # From here on in the loop's thread again.

    def _await_answer(self, client: mqtt.Client) -> None:
        """Begin to wait for the CONNACK of an attempt that reached the broker."""
        if client is not self._client or self._protocol is not MQTTProtocolVersion.MQTTv5:
            return
        is_near = not self._identity.broker.is_tls
        silence_s = _SILENCE_LOOPBACK_S_MAX if is_near else _SILENCE_S_MAX
        self._answered()
        self._silence = self._loop.call_later(silence_s, self._fall_back, client)

    def _answered(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _change(self, client: mqtt.Client, is_up: bool) -> None:  # noqa: FBT001
        if client is not self._client:
            return
        self._answered()
        self._hangups = 0
        if is_up != self._is_up:
            self._is_up = is_up
            broker = self._identity.broker
            log.event(
                "connected" if is_up else "disconnected",
                broker=f"{broker.host}:{broker.port}",
                protocol=self._protocol.name,
            )
            self._on_change(is_up)

    def _lost(self, client: mqtt.Client, reason: str) -> None:
        if client is not self._client:
            return
        self._answered()
        if self._is_up:
            self._change(client, is_up=False)
            return
        log.event("connection-closed", reason=reason)
        self._hangups += 1
        if self._hangups >= _HANGUPS_MAX:
            self._fall_back(client)

    def _refused(self, client: mqtt.Client, reason: str, code: int) -> None:
        if client is not self._client:
            return
        self._answered()
        log.event("connection-refused", reason=reason, code=BrokerUnreachable.code)
        if code == _PROTOCOL_UNSUPPORTED:
            self._fall_back(client)

    def _unreachable(self, client: mqtt.Client) -> None:
        if client is self._client:
            broker = self._identity.broker
            log.event(
                "broker-unreachable",
                broker=f"{broker.host}:{broker.port}",
                code=BrokerUnreachable.code,
            )

    def _fall_back(self, client: mqtt.Client) -> None:
        if client is not self._client or self._protocol is not MQTTProtocolVersion.MQTTv5:
            return
        log.event("protocol-fallback", protocol="MQTTv311")
        self._protocol = MQTTProtocolVersion.MQTTv311
        self._loop.run_in_executor(None, _close, client)
        self.start()


def _close(client: mqtt.Client) -> None:
    client.disconnect()
    client.loop_stop()


def tls_context(identity: Identity, clock: Clock) -> ssl.SSLContext:
    """Return how this device speaks TLS: the broker's certificates must outlive the clock's floor.

    Raises StateDamaged if the device's files cannot be used.
    """
    try:
        context = ssl.create_default_context(
            ssl.Purpose.SERVER_AUTH, cafile=identity.directory / identities.CA
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(identity.directory / identities.CERTIFICATE, identity.key_path)
    except (OSError, ssl.SSLError) as error:
        raise StateDamaged(f"the identity cannot be used for TLS: {error}") from error
    return tls.hold_against(context, clock.floor)
