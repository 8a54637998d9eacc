"""The part of a control plane that runs rollouts, over a fleet that exists only as rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from control_plane.api import app as application
from control_plane.api import rollouts as routes
from control_plane.api import schemas, tokens
from control_plane.api.auth import Access, Role
from control_plane.fleet import selectors
from control_plane.fleet.cohorts import Kind
from control_plane.fleet.selectors import Selector
from control_plane.rollouts.executor import Executor
from control_plane.store.access import AccessTokens
from control_plane.store.devices import Devices
from control_plane.store.rollouts import Rollouts
from firmware_bundles import manifest
from firmware_bundles.capabilities import Capabilities
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
        self.offered: dict[str, Capabilities] = {}
        self._tokens = AccessTokens(self.fleet.database)
        access = Access(self._tokens, bytes(32), self._clock)
        self.app = application.create(
            "0.0.0",
            api=[
                routes.router(access, self.rollouts, self, self, self._clock),
                schemas.router(access),
            ],
        )

    def token(self, role: Role) -> str:
        """Return a fresh API token."""
        return tokens.create(self._tokens, role.value, role, self.now).token

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

    def manifest(self, digest: str) -> Manifest:
        """Return a manifest; only family, version and needs mean something."""
        release = deployments.Release(digest, needs=self.needs)
        return manifest.parse(release.manifest)

    def selector(self, cohort: str) -> Selector:
        """Return what the cohorts `all` and `nobody` stand for."""
        if cohort not in ("all", "nobody"):
            raise NotFound(f"there is no cohort {cohort!r}")
        return Selector() if cohort == "all" else selectors.parse("is=nobody")

    def count(self, selector: Selector) -> int:
        """Count the devices that a selector matches."""
        return len(Devices(self.fleet.database).members(selector))

    def kinds(self, selector: Selector) -> list[Kind]:
        """Return what each device offers; who said nothing offers what is not known."""
        unknown = Capabilities("", {})
        ids = Devices(self.fleet.database).members(selector)
        return [Kind(self.offered.get(each, unknown), 1, each) for each in ids]
