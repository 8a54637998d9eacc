"""Ends a device's live session: by a short connection under its name, which takes the session over.

mosquitto reads a new list of revoked certificates without closing what is open, and its client id
is the certificate's name. So a certificate of that name, made here and valid for minutes, makes it
close the session of the one who held it (MQTT 3.1.1, 3.1.4-2).
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from control_plane.broker.client import tls_context
from firmware_bundles.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.broker.endpoint import Endpoint
    from control_plane.fleet.authority import Pair

LIFE_S: Final = 300.0
_ANSWER_S_MAX: Final = 10.0


class Eviction:
    """Evicts devices from one broker; `issue` makes a certificate for a name."""

    def __init__(self, endpoint: Endpoint, ca: Path, issue: Callable[[str], Pair]) -> None:
        self._endpoint = endpoint
        self._ca = ca
        self._issue = issue

    def evict(self, device_id: str) -> None:
        """End the session that `device_id` may have. Raises BrokerUnreachable."""
        answered = threading.Event()
        client = Client(
            CallbackAPIVersion.VERSION2, device_id, protocol=MQTTProtocolVersion.MQTTv311
        )
        if self._endpoint.is_tls:
            self._show(client, device_id)
        client.on_connect = lambda *_: answered.set()
        try:
            client.connect(self._endpoint.host, self._endpoint.port)
        except OSError as error:
            raise BrokerUnreachable(f"cannot end the session of {device_id}: {error}") from error
        client.loop_start()
        is_answered = answered.wait(_ANSWER_S_MAX)
        client.disconnect()
        client.loop_stop()
        if not is_answered:
            raise BrokerUnreachable(f"the broker did not let us end the session of {device_id}")

    def _show(self, client: Client, device_id: str) -> None:
        pair = self._issue(device_id)
        with tempfile.TemporaryDirectory() as name:
            certificate, key = Path(name) / "pem", Path(name) / "key"
            certificate.write_bytes(pair.certificate)
            key.touch(0o600)
            key.write_bytes(pair.key)
            client.tls_set_context(tls_context(self._ca, certificate, key))
