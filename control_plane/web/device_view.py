"""What the page of one device shows, read at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from control_plane.fleet import devices as domain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from control_plane.rollouts.model import Rollout
    from control_plane.store.certificates import Certificates
    from control_plane.store.device_history import (
        DeviceHistory,
        Place,
        Received,
        Watched,
        Window,
    )
    from control_plane.store.devices import DeviceRow, Devices
    from control_plane.store.rollouts import Rollouts


class FamilyLine(NamedTuple):
    """What is wanted of a device in one family, and what it said, signed; each as stored."""

    family: str
    desired: Mapping[str, Any] | None
    reported: Mapping[str, Any] | None


class Membership(NamedTuple):
    """A rollout that the device is in, where it stands there, and why the rollout does."""

    rollout: Rollout
    place: Place
    where: str
    why: list[str]


class DevicePage(NamedTuple):
    """All that the page of a device shows, read `at` (Unix seconds)."""

    at: float
    device: DeviceRow
    access: domain.Access
    certificate_ends: float | None
    families: list[FamilyLine]
    memberships: list[Membership]
    detected: list[Mapping[str, Any]]
    misconduct: list[Mapping[str, Any]]
    received: list[Received]
    watched: list[Watched]
    windows: list[Window]


class DeviceReader:
    """Reads one device for people."""

    def __init__(
        self,
        devices: Devices,
        history: DeviceHistory,
        rollouts: Rollouts,
        certificates: Certificates,
        clock: Callable[[], float],
    ) -> None:
        self._devices = devices
        self._history = history
        self._rollouts = rollouts
        self._certificates = certificates
        self._clock = clock

    def read(self, device_id: str) -> DevicePage:
        """Return what there is to see now. Raises NotFound."""
        found, now = domain.describe(self._devices, device_id), self._clock()
        ends = self._certificates.newest_ends([device_id]).get(device_id)
        history = self._history
        return DevicePage(
            at=now,
            device=found.device,
            access=domain.access(found.device, ends, now),
            certificate_ends=ends,
            families=families(found),
            memberships=[
                self._membership(each, device_id) for each in history.rollout_ids(device_id)
            ],
            detected=found.detected,
            misconduct=found.misconduct,
            received=history.received(device_id),
            watched=history.watched(device_id),
            windows=history.windows(device_id),
        )

    def _membership(self, rollout_id: str, device_id: str) -> Membership:
        rollout = self._rollouts.get(rollout_id)
        place = self._history.place(rollout, device_id)
        return Membership(rollout, place, where(rollout, place), self._history.why(rollout_id))


def families(found: domain.Description) -> list[FamilyLine]:
    """Return each family that is wanted or reported, in order of their names."""
    desired = {str(row["family"]): row for row in found.desired}
    reported = {str(row["family"]): row for row in found.reported}
    return [
        FamilyLine(name, desired.get(name), reported.get(name))
        for name in sorted(desired | reported)
    ]


def where(rollout: Rollout, place: Place) -> str:
    """Return in words at which place of a rollout a device stands."""
    phases = len(rollout.spec.course())
    at = f"number {place.position + 1} of {place.members}"
    if place.phase < 0:
        return f"{at}, in no phase"
    if place.phase >= phases:
        return f"{at}, came after the end"
    return f"{at}, in phase {place.phase + 1} of {phases}"
