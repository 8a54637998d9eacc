"""A fleet of rows with two architectures, its cohorts, its rollouts, and who looks after them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import insert

from control_plane.fleet import facts
from control_plane.fleet.cohorts import Cohorts
from control_plane.rollouts.enlisting import LOOK_S, Enlisting
from control_plane.rollouts.executor import Executor
from control_plane.rollouts.model import Rollout
from control_plane.rollouts.selection import choose
from control_plane.rollouts.upholding import Upholding
from control_plane.store.cohorts import CohortRows
from control_plane.store.devices import Devices
from control_plane.store.rollouts import Rollouts
from control_plane.store.schema import device
from firmware_bundles import manifest
from firmware_bundles.identifiers import target_path
from firmware_bundles.manifest import Manifest, Needs
from support import deployments
from support.rollout_fleet import RowFleet, device_row, rollout

# Only some devices tell these.
_EXTRAS: dict[int, dict[str, object]] = {
    3: {"accelerators": "none", "speed_class": 9},
    4: {"accelerators": "edgetpu.gpu", "speed_class": 9},
    5: {"accelerators": "edgetpu", "speed_class": 14},
}
PHASES = "phases: [{share: 0.5, soak_s: 0}, {share: 1.0, soak_s: 0}]"


def spec(more: str = "") -> str:
    """Return a rollout file."""
    return f"family: digits\nrelease: '2'\ncohort: all\n{PHASES}\n{more}"


class _Release(NamedTuple):
    path: str
    digest: str
    is_withdrawn: bool = False


class _Releases:
    """Every version there is."""

    def find(self, family: str, version: str, /) -> _Release:
        """Return a release."""
        return _Release(target_path(family, version), version)

    def file(self, _digest: str, name: str) -> bytes:
        """No bundle has files here."""
        raise KeyError(name)

    def manifest(self, digest: str, /) -> Manifest:
        """Return a manifest without needs."""
        return manifest.parse(deployments.Release(digest).manifest)


class World:
    """Devices of two architectures with interpreters of two ages, their cohorts and rollouts."""

    def __init__(self, folder: Path, size: int = 12) -> None:
        self.fleet = RowFleet(folder, size=0)
        self.now = 1000.0
        self.enrol(*range(size))
        self.devices = Devices(self.fleet.database)
        self.cohorts = Cohorts(CohortRows(self.fleet.database), self.devices, lambda: self.now)
        self.cohorts.create("all", "")
        self.rollouts = Rollouts(self.fleet.database)
        self.executor = Executor(self.rollouts, lambda _devices: None, lambda: self.now)
        self.enlisting = Enlisting(self.rollouts, _Releases(), self.cohorts, lambda: self.now)
        own = Executor(self.rollouts, lambda _devices: None, lambda: self.now)
        self.upholding = Upholding(self.rollouts, _Releases(), self.cohorts, own, lambda: self.now)

    def enrol(self, *numbers: int) -> None:
        """Let devices become members of the fleet, with version 1."""
        rows = [self._row(number) for number in numbers]
        with self.fleet.database.transaction() as connection:
            connection.execute(insert(device), rows)
        names = [f"d{number:02}" for number in numbers]
        self.fleet.devices += names
        self.fleet.serve("1", names)

    def _row(self, number: int) -> dict[str, object]:
        inventory = {
            "arch": "aarch64" if number % 3 == 0 else "x86_64",
            "memory_bytes": 1_000 * (number + 1),
            "runtime": "ai-edge-litert 2.3.0",
            **_EXTRAS.get(number, {}),
        }
        row = device_row(f"d{number:02}")
        return row | {"inventory": inventory, "facts": facts.reported(inventory)}

    def start(
        self, more: str = "", rollout_id: str = "example", needs: Needs | None = None
    ) -> Rollout:
        """Start a rollout as the API does."""
        wanted = rollout(spec(more), rollout_id)
        chosen = choose(wanted.spec, needs or Needs(), self.cohorts)
        self.rollouts.create(wanted, chosen.members, left_out=chosen.left_out)
        return wanted

    def run(self, seconds: float = 10.0) -> None:
        """Let rollouts go on, and devices do what they are told."""
        self.now += seconds
        self.executor.tick()
        self.fleet.obey()

    def look(self) -> None:
        """Let those join that came since."""
        self.now += LOOK_S
        self.enlisting.tick()
        self.upholding.tick()

    def positions(self, rollout_id: str = "example") -> dict[str, int]:
        """Return the devices of a rollout with their positions, each of which is taken once."""
        rows = self.rollouts.deployments(self.rollouts.get(rollout_id))
        assert [row.position for row in rows] == list(range(len(rows)))
        return {row.device_id: row.position for row in rows}

    def offered(self, rollout_id: str = "example") -> set[str]:
        """Return the devices that had an offer."""
        rows = self.rollouts.deployments(self.rollouts.get(rollout_id))
        return {row.device_id for row in rows if row.generation > 0}

    def order(self, rollout_id: str = "example") -> list[str]:
        """Return the devices of a rollout by position."""
        rows = self.rollouts.deployments(self.rollouts.get(rollout_id))
        return [row.device_id for row in rows]
