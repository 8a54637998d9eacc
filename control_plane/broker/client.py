"""The control plane's one MQTT connection: everything out, everything of devices in.

MQTT 3.1.1, which every broker speaks and which is all that is needed here. paho has a thread of
its own; an exception in a callback would end it without a word, so each is guarded. What a
message means is decided elsewhere: it is only handed on.
"""

from __future__ import annotations

import logging
import ssl
import threading
from functools import wraps
from typing import TYPE_CHECKING, Final, ParamSpec

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from control_plane.broker import acl
from firmware_bundles.errors import BrokerUnreachable
from firmware_bundles.wire import topics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from paho.mqtt.reasoncodes import ReasonCode

    from control_plane.broker.endpoint import Endpoint

    Parameters = ParamSpec("Parameters")

_LOG: Final = logging.getLogger(__name__)
_QOS: Final = 1
_KEEPALIVE_S: Final = 30
_RECONNECT_S_MAX: Final = 8
_UNACKNOWLEDGED_MAX: Final = 256
_ROOM_S_MAX: Final = 20.0
_TOLD_MAX: Final = 20_000


class BrokerClient:
    """Publishes from any thread; hands on what devices say."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        self._endpoint = endpoint
        self._on_message: Callable[[str, bytes], None] = _ignore
        self._on_connect: Callable[[], None] = _ignore
        self._under_way = 0
        self._told: set[int] = set()
        self._changed = threading.Condition()
        self._client = Client(
            CallbackAPIVersion.VERSION2, acl.SERVICE, protocol=MQTTProtocolVersion.MQTTv311
        )
        if tls is not None:
            self._client.tls_set_context(tls)
        self._client.reconnect_delay_set(1, _RECONNECT_S_MAX)
        self._client.on_connect = _guarded(self._connected)
        self._client.on_disconnect = _guarded(self._disconnected)
        self._client.on_message = _guarded(self._received)
        self._client.on_publish = _guarded(self._published)

    def start(
        self, *, on_message: Callable[[str, bytes], None], on_connect: Callable[[], None]
    ) -> None:
        """Begin to connect; goes on for as long as it takes.

        `on_message` gets topic and payload of what devices say, `on_connect` is called after each
        connection; both on the client's thread, so they must be quick.
        """
        self._on_message = on_message
        self._on_connect = on_connect
        self._client.connect_async(self._endpoint.host, self._endpoint.port, _KEEPALIVE_S)
        self._client.loop_start()

    def stop(self) -> None:
        """Say goodbye and end the thread."""
        self._client.disconnect()
        self._client.loop_stop()
        if (connection := self._client.socket()) is not None:
            connection.close()  # the thread ended before it came to this

    @property
    def is_connected(self) -> bool:
        """Whether the broker answers now."""
        return self._client.is_connected()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1, from any thread but the client's own; waits while too much is under way.

        While the broker is away it is kept and sent later. Raises BrokerUnreachable if there is
        no room for it.
        """
        with self._changed:
            if not self._changed.wait_for(self._has_room, _ROOM_S_MAX):
                raise BrokerUnreachable(
                    f"{_UNACKNOWLEDGED_MAX} messages wait for {self._endpoint.url} already"
                )
            self._under_way += 1
        try:
            self._client.publish(topic, payload, _QOS, retain)
        except BaseException:
            self._settle()
            raise

    def tell(self, topic: str, payload: bytes) -> None:
        """Send with QoS 0, from any thread but the client's own; never waits.

        For what is asked for again if it is lost: nobody says that it arrived. It is lost when the
        broker is away, or reads too slowly.
        """
        # The lock is held so that the client's thread knows the number before it needs it.
        with self._changed:
            if len(self._told) < _TOLD_MAX:
                info = self._client.publish(topic, payload, 0)
                if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._told.add(info.mid)

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has acknowledged all that was published; False if it did not."""
        with self._changed:
            return self._changed.wait_for(lambda: self._under_way == 0, timeout_s)

    def _has_room(self) -> bool:
        return self._under_way < _UNACKNOWLEDGED_MAX

    def _settle(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def _connected(
        self, _client: Client, _data: object, _flags: object, reason: ReasonCode, _: object
    ) -> None:
        with self._changed:
            self._told.clear()  # the client forgets what it had not written
        if reason.is_failure:
            _LOG.error("broker refused us url=%s reason=%s", self._endpoint.url, reason)
            return
        # A clean session has no subscriptions: ask on every connect.
        self._client.subscribe(topics.ALL_UP, _QOS)
        self._on_connect()

    def _disconnected(
        self, _client: Client, _data: object, _flags: object, reason: ReasonCode, _: object
    ) -> None:
        if reason.is_failure:
            _LOG.warning("broker is gone url=%s reason=%s", self._endpoint.url, reason)

    def _received(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._on_message(message.topic, bytes(message.payload))

    def _published(
        self, _client: Client, _data: object, mid: int, _reason: object, _: object
    ) -> None:
        with self._changed:
            if mid in self._told:
                self._told.remove(mid)
                return
        self._settle()


def tls_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a client that shows a certificate and trusts only `ca`."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def _ignore(*_: object) -> None:
    """Stand in before the start."""


def _guarded(callback: Callable[Parameters, None]) -> Callable[Parameters, None]:
    @wraps(callback)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception:  # noqa: BLE001 logged; the thread must live
            _LOG.exception("callback of the broker's client failed name=%s", callback.__name__)

    return call
