"""The part of a control plane that runs rollouts, over a fleet that exists only as rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import update

from control_plane.api import app as application
from control_plane.api import cohorts as cohort_routes
from control_plane.api import declarations, schemas, simulation, tokens
from control_plane.api import rollouts as routes
from control_plane.api.auth import Access, Role
from control_plane.fleet import facts
from control_plane.fleet.cohorts import Cohorts
from control_plane.rollouts.executor import Executor
from control_plane.store.access import AccessTokens
from control_plane.store.cohorts import CohortRows
from control_plane.store.declarations import Declarations
from control_plane.store.devices import Devices
from control_plane.store.rollouts import Rollouts
from control_plane.store.schema import device
from firmware_bundles import manifest
from firmware_bundles.errors import NotFound
from firmware_bundles.identifiers import target_path
from firmware_bundles.manifest import Manifest, Needs
from support import deployments
from support.rollout_fleet import FAMILY, RowFleet


class _Release(NamedTuple):
    path: str
    digest: str
    is_withdrawn: bool


class RolloutService:
    """Application and executor, wired as `shoal serve` wires them; the clock is the test's."""

    def __init__(self, directory: Path) -> None:
        self.now = 1_760_000_000.0
        self.fleet = RowFleet(directory, size=8)
        self.fleet.serve("1")
        self.rollouts = Rollouts(self.fleet.database)
        self.executor = Executor(self.rollouts, lambda _devices: None, self._clock)
        self.needs = Needs()
        self.cohorts = Cohorts(
            CohortRows(self.fleet.database), Devices(self.fleet.database), self._clock
        )
        self.cohorts.create("all", "")
        self.cohorts.create("nobody", "is=nobody")
        self._tokens = AccessTokens(self.fleet.database)
        access = Access(self._tokens, bytes(32), self._clock)
        self.app = application.create(
            "0.0.0",
            api=[
                routes.router(access, self.rollouts, self, self.cohorts, self._clock),
                cohort_routes.router(access, self.cohorts),
                declarations.router(access, Declarations(self.fleet.database), self._clock),
                simulation.router(access, self, self.cohorts, self._clock),
                schemas.router(access),
            ],
        )

    def token(self, role: Role, person: str | None = None) -> str:
        """Return a fresh API token named after its role, of a person."""
        made = tokens.create(self._tokens, role.value, role, self.now, person=person)
        return made.token

    def step(self, seconds: float = 1.0, state: str = "committed") -> None:
        """Let the executor act, and devices do what they are told."""
        self.now += seconds
        self.executor.tick()
        self.fleet.obey(state=state)

    def _clock(self) -> float:
        return self.now

    def find(self, family: str, version: str) -> _Release:
        """Return one of the three releases; the third is withdrawn."""
        if family != FAMILY or version not in ("1", "2", "3"):
            raise NotFound(f"there is no release {target_path(family, version)!r}")
        path = target_path(family, version)
        return _Release(path, digest=version, is_withdrawn=version == "3")

    def file(self, _digest: str, name: str) -> bytes:
        """No bundle has files here."""
        raise NotFound(f"no file {name!r}")

    def manifest(self, digest: str) -> Manifest:
        """Return a manifest; only family, version and needs mean something."""
        release = deployments.Release(digest, needs=self.needs)
        return manifest.parse(release.manifest)

    def report_facts(self, device_id: str, **inventory: str | int) -> None:
        """Let a device say what it is made of."""
        values = {"inventory": inventory, "facts": facts.reported(inventory)}
        with self.fleet.database.transaction() as connection:
            connection.execute(update(device).where(device.c.id == device_id).values(values))
