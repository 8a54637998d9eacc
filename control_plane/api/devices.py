"""Devices: pages of them, one with all that is known of it, and its labels."""

import logging
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from control_plane.api.auth import Access, Caller, Role
from control_plane.fleet import devices as domain
from control_plane.fleet import labels as label
from control_plane.fleet import selectors
from control_plane.fleet.cohorts import Cohorts
from control_plane.store.devices import Devices

_LOG: Final = logging.getLogger(__name__)
ROWS_DEFAULT = 100
ROWS_MAX = 1000


class Device(BaseModel):
    """A device as it stands in a list; `serving` is the version that answers for each family."""

    id: str
    labels: dict[str, str]
    is_online: bool
    last_seen: float | None
    enrolled: float
    agent_version: str
    serving: dict[str, str]
    buffer: dict[str, Any] | None
    revoked: float | None
    retired: float | None


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


class Labels(BaseModel):
    """All labels of a device."""

    labels: dict[str, str]


def router(
    access: Access,
    devices: Devices,
    cohorts: Cohorts,
    revoke: Callable[..., None],
) -> APIRouter:
    """Return the routes under /devices; `revoke` is that of `fleet.revocation`."""
    operator = access.require(Role.OPERATOR)
    viewer = Depends(access.require(Role.VIEWER))
    routes = APIRouter(prefix="/devices", tags=["devices"])

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
            selector = selector.also(selectors.parse(cohorts.get(cohort).selector))
        page = domain.page(devices, selector, after=after, limit=limit)
        serving = devices.serving([row.id for row in page.devices])
        shown = [_shown(row._asdict(), serving.get(row.id, {})) for row in page.devices]
        return DevicePage(devices=shown, next=page.next_after)

    @routes.get("/{device_id}", dependencies=[viewer])
    def show_device(device_id: str) -> DeviceDescription:
        """Show one device."""
        found = domain.describe(devices, device_id)
        serving = devices.serving([device_id]).get(device_id, {})
        return DeviceDescription.model_validate(
            {**found.device._asdict(), **found._asdict(), "serving": serving}
        )

    @routes.patch("/{device_id}", dependencies=[Depends(operator)])
    def change_labels(device_id: str, change: LabelChange) -> Labels:
        """Set or remove labels."""
        label.check(change.labels)
        return Labels(labels=dict(devices.set_labels(device_id, change.labels)))

    @routes.post("/{device_id}/revoke", status_code=204)
    def revoke_device(device_id: str, caller: Annotated[Caller, Depends(operator)]) -> None:
        """End a device's access to broker and API, for instance because it was stolen."""
        _LOG.warning("revocation asked device=%s by=%s", device_id, caller.name)
        revoke(device_id)

    @routes.post("/{device_id}/retire", status_code=204)
    def retire_device(device_id: str, caller: Annotated[Caller, Depends(operator)]) -> None:
        """Take a device out of service: it loses its access, its history stays."""
        _LOG.warning("retirement asked device=%s by=%s", device_id, caller.name)
        revoke(device_id, is_retired=True)

    return routes


def _shown(row: dict[str, Any], serving: dict[str, str]) -> Device:
    return Device.model_validate({**row, "serving": serving})
