"""What an operator sees of the fleet: pages of devices, and one device with all that is known."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.fleet.selectors import Selector
    from control_plane.store.devices import DeviceRow, Devices


class Access(StrEnum):
    """Whether a device gets in. One whose certificate ended renews it with its key, or is gone."""

    ENROLLED = "enrolled"
    EXPIRED = "expired"
    RETIRING = "retiring"
    REVOKED = "revoked"
    RETIRED = "retired"


class Page(NamedTuple):
    """Some devices in order of their ids; `next_after` continues, None at the end."""

    devices: list[DeviceRow]
    next_after: str | None


class Description(NamedTuple):
    """One device with what is wanted of it and what it said."""

    device: DeviceRow
    desired: list[Mapping[str, Any]]
    reported: list[Mapping[str, Any]]
    detected: list[Mapping[str, Any]]
    misconduct: list[Mapping[str, Any]]


def access(row: DeviceRow, certificate_ends: float | None, now: float) -> Access:
    """Return how a device stands with the fleet. Pure."""
    if row.retired is not None:
        return Access.RETIRED
    if row.revoked is not None:
        return Access.REVOKED
    if row.retiring is not None:
        return Access.RETIRING
    if certificate_ends is not None and certificate_ends <= now:
        return Access.EXPIRED
    return Access.ENROLLED


def page(devices: Devices, selector: Selector, *, after: str, limit: int) -> Page:
    """Return the next at most `limit` devices that `selector` matches."""
    found = devices.after(after, limit + 1, selector)
    if len(found) <= limit:
        return Page(found, None)
    return Page(found[:limit], found[limit - 1].id)


def describe(devices: Devices, device_id: str) -> Description:
    """Return all that is known of a device. Raises NotFound."""
    return Description(
        device=devices.get(device_id),
        desired=devices.desired(device_id),
        reported=devices.reported(device_id),
        detected=devices.detections(device_id),
        misconduct=devices.misconduct(device_id),
    )
