"""Everything that one database holds: one class for each subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from control_plane.store.access import AccessTokens
from control_plane.store.alerts import Alerts
from control_plane.store.audit import AuditLog
from control_plane.store.certificates import Certificates
from control_plane.store.cohorts import CohortRows
from control_plane.store.concerns import Concerns
from control_plane.store.declarations import Declarations
from control_plane.store.device_history import DeviceHistory
from control_plane.store.devices import Devices
from control_plane.store.enrolment import Invitations
from control_plane.store.outbox import Outbox
from control_plane.store.outcomes import Outcomes
from control_plane.store.overview import Overview
from control_plane.store.patches import Patches
from control_plane.store.pruning import Pruning
from control_plane.store.releases import Releases
from control_plane.store.retirement import RetirementRows
from control_plane.store.rollouts import Rollouts
from control_plane.store.samples import Samples
from control_plane.store.tallies import Tallies
from control_plane.store.telemetry import Telemetry
from control_plane.store.watches import Watches

if TYPE_CHECKING:
    from control_plane.store.database import Database


class Stores(NamedTuple):
    """All subjects, over one database."""

    audit: AuditLog
    tokens: AccessTokens
    invitations: Invitations
    devices: Devices
    history: DeviceHistory
    certificates: Certificates
    retirements: RetirementRows
    cohorts: CohortRows
    declarations: Declarations
    releases: Releases
    patches: Patches
    rollouts: Rollouts
    telemetry: Telemetry
    outcomes: Outcomes
    tallies: Tallies
    pruning: Pruning
    samples: Samples
    overview: Overview
    watches: Watches
    alerts: Alerts
    concerns: Concerns
    outbox: Outbox

    @classmethod
    def over(cls, database: Database) -> Self:
        """Return all of them over an open database."""
        return cls(
            audit=AuditLog(database),
            tokens=AccessTokens(database),
            invitations=Invitations(database),
            devices=Devices(database),
            history=DeviceHistory(database),
            certificates=Certificates(database),
            retirements=RetirementRows(database),
            cohorts=CohortRows(database),
            declarations=Declarations(database),
            releases=Releases(database),
            patches=Patches(database),
            rollouts=Rollouts(database),
            telemetry=Telemetry(database),
            outcomes=Outcomes(database),
            tallies=Tallies(database),
            pruning=Pruning(database),
            samples=Samples(database),
            overview=Overview(database),
            watches=Watches(database),
            alerts=Alerts(database),
            concerns=Concerns(database),
            outbox=Outbox(database),
        )
