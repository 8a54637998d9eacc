"""Devices: pages of them, one with all that is known of it, and its labels."""

import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Query
from pydantic import BaseModel, Field

from control_plane.api.auth import Access, Caller, Role
from control_plane.fleet import devices as domain
from control_plane.fleet import labels as label
from control_plane.fleet import selectors
from control_plane.fleet.cohorts import Cohorts
from control_plane.fleet.retirement import WAIT_S_DEFAULT, WAIT_S_MAX
from control_plane.store.certificates import Certificates
from control_plane.store.devices import DeviceRow, Devices

_LOG: Final = logging.getLogger(__name__)
ROWS_DEFAULT = 100
ROWS_MAX = 1000


class Device(BaseModel):
    """A device as it stands in a list; `serving` is the version that answers for each family.

    `retire_until` is when a retiring device loses its access unless it has erased all before;
    `erased` is when it said, signed, that it had, and `segments_erased` what was lost with it.
    """

    id: str
    labels: dict[str, str]
    is_online: bool
    last_seen: float | None
    enrolled: float
    agent_version: str
    serving: dict[str, str]
    buffer: dict[str, Any] | None
    access: domain.Access
    certificate_ends: float | None
    revoked: float | None
    retiring: float | None
    retire_until: float | None
    retired: float | None
    erased: float | None
    segments_erased: int | None


class DevicePage(BaseModel):
    """Some devices; `next` goes on as `after`, and is missing at the end."""

    devices: list[Device]
    next: str | None


class DeviceDescription(Device):
    """All that is known of a device, by family; `reported` is what it signed.

    `detected` is what it refused, `misconduct` what others saw it do.
    """

    inventory: dict[str, Any]
    desired: list[dict[str, Any]]
    reported: list[dict[str, Any]]
    detected: list[dict[str, Any]]
    misconduct: list[dict[str, Any]]


class LabelChange(BaseModel):
    """Labels to set; null removes one."""

    labels: dict[str, str | None]


class Retirement(BaseModel):
    """How long a device may take to erase what it holds, in seconds; 0 ends its access now."""

    wait_s: Annotated[float, Field(ge=0, le=WAIT_S_MAX)] = WAIT_S_DEFAULT


class Labels(BaseModel):
    """All labels of a device."""

    labels: dict[str, str]


def router(
    access: Access,
    devices: Devices,
    cohorts: Cohorts,
    certificates: Certificates,
    *,
    revoke: Callable[[str, str], None],
    retire: Callable[[str, float, str], None],
    clock: Callable[[], float],
) -> APIRouter:
    """Return the routes under /devices; `revoke` and `retire` are those of `fleet`."""
    operator = access.require(Role.OPERATOR)
    viewer = Depends(access.require(Role.VIEWER))
    routes = APIRouter(prefix="/devices", tags=["devices"])

    def shown(rows: Sequence[DeviceRow]) -> list[Device]:
        ids = [row.id for row in rows]
        serving, ends, now = devices.serving(ids), certificates.newest_ends(ids), clock()
        return [_shown(row, serving.get(row.id, {}), ends.get(row.id), now) for row in rows]

    @routes.get("", dependencies=[viewer])
    def list_devices(
        labels: Annotated[str, Query(description="A label selector")] = "",
        cohort: Annotated[str | None, Query(description="The name of a cohort")] = None,
        after: Annotated[str, Query(description="`next` of the page before")] = "",
        limit: Annotated[int, Query(ge=1, le=ROWS_MAX)] = ROWS_DEFAULT,
    ) -> DevicePage:
        """List devices in order of their ids, page by page."""
        selector = selectors.parse(labels)
        if cohort is not None:
            selector = selector.also(cohorts.selector(cohort))
        page = domain.page(devices, selector, after=after, limit=limit)
        return DevicePage(devices=shown(page.devices), next=page.next_after)

    @routes.get("/{device_id}", dependencies=[viewer])
    def show_device(device_id: str) -> DeviceDescription:
        """Show one device."""
        found = domain.describe(devices, device_id)
        (one,) = shown([found.device])
        facts = {**found._asdict(), "inventory": found.device.inventory}
        return DeviceDescription.model_validate({**facts, **one.model_dump()})

    @routes.patch("/{device_id}")
    def change_labels(
        device_id: str, change: LabelChange, caller: Annotated[Caller, Depends(operator)]
    ) -> Labels:
        """Set or remove labels."""
        label.check(change.labels)
        changed = devices.set_labels(device_id, change.labels, clock(), caller.actor)
        return Labels(labels=dict(changed))

    @routes.post("/{device_id}/revoke", status_code=204)
    def revoke_device(device_id: str, caller: Annotated[Caller, Depends(operator)]) -> None:
        """End a device's access to broker and API, for instance because it was stolen."""
        _LOG.warning("revocation asked device=%s by=%s", device_id, caller.name)
        revoke(device_id, caller.actor)

    @routes.post("/{device_id}/retire")
    def retire_device(
        device_id: str,
        caller: Annotated[Caller, Depends(operator)],
        wanted: Annotated[Retirement | None, Body()] = None,
    ) -> Device:
        """Take a device out of service: it erases its models, then it loses its access."""
        _LOG.warning("retirement asked device=%s by=%s", device_id, caller.name)
        retire(device_id, (wanted or Retirement()).wait_s, caller.actor)
        (one,) = shown([devices.get(device_id)])
        return one

    return routes


def _shown(
    row: DeviceRow, serving: dict[str, str], certificate_ends: float | None, now: float
) -> Device:
    facts = {**row._asdict(), "serving": serving, "certificate_ends": certificate_ends}
    return Device.model_validate({**facts, "access": domain.access(row, certificate_ends, now)})
