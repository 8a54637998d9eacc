"""Who is there. A presence names its connection, so that an old last will hurts no new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from control_plane.store.devices import PresenceRow
from firmware_bundles.wire import codec, messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.store.devices import Devices


class Presences:
    """Keeps the presence of each device as its connections tell it."""

    def __init__(self, devices: Devices, clock: Callable[[], float]) -> None:
        self._devices = devices
        self._clock = clock

    def handle(self, device_id: str, payload: bytes) -> None:
        """Note a presence as it came from the broker. Raises WireError."""
        said = codec.decode(messages.Presence, payload)
        known = self._devices.presence(device_id)
        changed = None if known is None else after(known, said)
        if changed is not None:
            self._devices.set_presence(device_id, changed, self._clock())


def after(known: PresenceRow, said: messages.Presence) -> PresenceRow | None:
    """Return the presence that follows, or None if nothing changes. Pure.

    A birth always counts. A last will counts only if it is of the connection that is known: the
    broker may notice the end of an old connection long after the device made a new one.
    """
    if said.online:
        new = PresenceRow(is_online=True, connection=said.connection)
    elif known.connection in {None, said.connection}:
        new = PresenceRow(is_online=False, connection=said.connection)
    else:
        return None
    return None if new == known else new
