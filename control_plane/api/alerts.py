"""Alerts over HTTP: what is the matter, and who took notice."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from control_plane.alerts import decision
from control_plane.alerts.decision import Kind, State
from control_plane.alerts.rounds import Rounds
from control_plane.api.auth import Access, Caller, Role
from control_plane.store.alerts import ROWS_MAX, Alerts
from firmware_bundles.errors import NotFound

_NOTE_CHARS_MAX: Final = 400
_ACTIVE: Final = (State.OPEN, State.ACKNOWLEDGED)


class Alert(BaseModel):
    """A matter. `seen` is when it was last there; `details` are its evidence, by kind."""

    alert: int
    kind: Kind
    state: State
    summary: str
    device_id: str | None
    family: str | None
    model: str | None
    cohort: str | None
    raised: float
    seen: float
    reminders: int
    acknowledged: float | None
    acknowledged_by: str | None
    note: str
    resolved: float | None
    details: dict[str, Any]


class AlertList(BaseModel):
    """Alerts, the newest first, and how many are not over."""

    alerts: list[Alert]
    open: int
    acknowledged: int


class Acknowledgement(BaseModel):
    """What who takes notice wants to say."""

    note: Annotated[str, Field(max_length=_NOTE_CHARS_MAX)] = ""


StateFilter = Annotated[
    list[State], Query(alias="state", description="Open and acknowledged ones if none is named.")
]
KindFilter = Annotated[Kind | None, Query(description="Only of this kind.")]
DeviceFilter = Annotated[str | None, Query(max_length=128, description="Only of this device.")]
Limit = Annotated[int, Query(ge=1, le=ROWS_MAX)]


def router(access: Access, alerts: Alerts, rounds: Rounds) -> APIRouter:
    """Return the routes under /alerts."""
    viewer = Depends(access.require(Role.VIEWER))
    routes = APIRouter(prefix="/alerts", tags=["alerts"])

    @routes.get("", dependencies=[viewer])
    def list_alerts(
        states: StateFilter = [],  # noqa: B006 - FastAPI's default, never changed
        kind: KindFilter = None,
        device: DeviceFilter = None,
        limit: Limit = 100,
    ) -> AlertList:
        """List alerts."""
        found = alerts.find_all(states or _ACTIVE, kind, device, limit)
        return AlertList(alerts=[_shown(each) for each in found], **alerts.counts()._asdict())

    @routes.get("/{number}", dependencies=[viewer])
    def show_alert(number: int) -> Alert:
        """Show one alert."""
        found = alerts.find(number)
        if found is None:
            raise NotFound(f"there is no alert {number}")
        return _shown(found)

    @routes.post("/{number}/acknowledge")
    def acknowledge_alert(
        number: int,
        said: Acknowledgement,
        caller: Annotated[Caller, Depends(access.require(Role.OPERATOR))],
    ) -> Alert:
        """Take notice in the caller's name: nobody is reminded of it any more."""
        return _shown(rounds.acknowledge(number, caller.name, caller.actor, said.note))

    return routes


def _shown(alert: decision.Alert) -> Alert:
    return Alert.model_validate(alert._asdict() | {"alert": alert.number})
