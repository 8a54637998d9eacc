"""Who is there. A presence names its connection, so that an old last will hurts no new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from control_plane.store.devices import PresenceRow
from firmware_bundles.errors import ShoalError
from firmware_bundles.wire import codec, messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.store.devices import Devices


class Presences:
    """Keeps the presence of each device as its connections tell it."""

    def __init__(self, devices: Devices, clock: Callable[[], float]) -> None:
        self._devices = devices
        self._clock = clock

    def handle(self, device_id: str, payload: bytes) -> None:
        """Note a presence as it came from the broker. Raises WireError."""
        (error,) = self.handle_all([(device_id, payload)])
        if error is not None:
            raise error

    def handle_all(self, batch: Sequence[tuple[str, bytes]]) -> list[ShoalError | None]:
        """Note presences in order, in one transaction; say of each why it was refused, if so."""
        known = self._devices.presences({device_id for device_id, _ in batch})
        changed: dict[str, PresenceRow] = {}
        errors: list[ShoalError | None] = []
        for device_id, payload in batch:
            try:
                said = codec.decode(messages.Presence, payload)
            except ShoalError as error:
                errors.append(error)
                continue
            errors.append(None)
            if device_id in known and (new := after(known[device_id], said)) is not None:
                known[device_id] = changed[device_id] = new
        if changed:
            self._devices.set_presences(changed, self._clock())
        return errors


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
