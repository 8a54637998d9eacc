"""What the store promises holds on PostgreSQL as on SQLite: schema, views, rollouts, telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, insert, select

from control_plane.fleet.selectors import Selector
from control_plane.rollouts.executor import REMIND_S, Executor
from control_plane.rollouts.model import RolloutState
from control_plane.store import schema
from control_plane.store.database import Database
from control_plane.store.devices import Devices
from control_plane.store.rollouts import Rollouts
from firmware_bundles.wire.messages import DeploymentState, FamilyReport, Report, Serving
from support.rollout_fleet import FAMILY, RowFleet, digest, rollout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control_plane.rollouts.model import Rollout

PHASES = """
family: digits
release: "2"
cohort: all
phases: [{share: 0.25, soak_s: 0, timeout_s: 60}, {share: 1.0, soak_s: 0, timeout_s: 60}]
"""


class World:
    """Devices that report as the service stores it, a rollout over them, and its executor."""

    def __init__(self, url: str) -> None:
        self.fleet = RowFleet(url, size=8)
        self.devices = Devices(self.fleet.database)
        self.rollouts = Rollouts(self.fleet.database)
        self.now = REMIND_S
        self.told: list[str] = []
        self._executor = Executor(self.rollouts, self.told.extend, lambda: self.now)
        self._counter = 0
        self.fleet.serve("1")
        self.rollouts.create(rollout(PHASES), Selector())

    def tick(self) -> Rollout:
        """Let a second pass, and the executor act."""
        self.now += 1
        self._executor.tick()
        return self.rollouts.get("example")

    def report(self, device_id: str, state: DeploymentState) -> Report:
        """Return what a device says of what it is told to run."""
        wanted = self.fleet.wants(device_id)
        serves = wanted["digest"] if state is DeploymentState.COMMITTED else digest("1")
        serving = Serving(
            digest=serves, version="2", runtime="litert", delegate="", since=1.0, answered=1
        )
        told = FamilyReport(
            family=FAMILY, generation=wanted["generation"], state=state, serving=serving
        )
        self._counter += 1
        return Report(
            device=device_id,
            incarnation="0" * 16,
            counter=self._counter,
            time=self.now,
            agent_version="1.0",
            families=(told,),
            inventory={"arch": 'an "odd" \\ one', "memory_bytes": 2**33},
        )

    def obey(self, state: DeploymentState = DeploymentState.COMMITTED) -> list[bool]:
        """Let all that were told report, together."""
        told = sorted(self.fleet.offered("2"))
        return self.devices.accept_reports([self.report(each, state) for each in told], self.now)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    """Eight devices that serve the first release, and a rollout of the second one."""
    made = World(database_url)
    yield made
    made.fleet.database.close()


def test_the_migrated_database_has_the_schema(database_url: str) -> None:
    """A database that ran all migrations differs in nothing from the tables that the code uses."""
    database = Database.open(database_url)
    with database.reading() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
    database.close()


def test_a_rollout_goes_through_its_phases_by_signed_reports(world: World) -> None:
    """Waves are offered, reports counted, and the rollout ends when all have said so."""
    for _ in range(12):
        found = world.tick()
        world.obey()
    assert found.standing.state is RolloutState.COMPLETED
    view = world.rollouts.view(found)
    assert [counts.committed for counts in view.phases] == [2, 6]
    assert sorted(set(world.told)) == world.fleet.devices


def test_a_rollout_that_fails_sends_devices_back(world: World) -> None:
    """Devices that were told are told to run what they ran before, and the reasons are grouped."""
    world.tick()
    offered = sorted(world.fleet.offered("2"))
    world.obey(DeploymentState.FAILED)
    (reason,) = world.rollouts.reasons(world.rollouts.get("example"))
    assert (reason.status, reason.devices) == ("failed", len(offered))
    assert world.tick().standing.state is RolloutState.ROLLING_BACK
    assert {world.fleet.wants(each)["arm"] for each in offered} == {"rollback"}


def test_a_report_that_comes_again_changes_nothing(world: World) -> None:
    """Within a batch and after it, what came once is refused."""
    world.tick()
    first, *_ = sorted(world.fleet.offered("2"))
    said = world.report(first, DeploymentState.COMMITTED)
    assert world.devices.accept_reports([said, said], world.now) == [True, False]
    assert world.devices.accept_reports([said], world.now) == [False]
    row = world.devices.get(first)
    assert row.inventory == dict(said.inventory)
    assert row.last_seen == world.now


def test_a_view_stays_as_it_was_while_others_write(world: World) -> None:
    """What one reading tells is of one moment: a commit in between changes nothing of it."""
    every = select(func.count()).select_from(schema.cohort)
    row = {"name": "all", "selector": "", "created": 1.0}
    with world.fleet.database.reading() as connection:
        before = connection.execute(every).scalar_one()
        with world.fleet.database.transaction() as other:
            other.execute(insert(schema.cohort).values(row))
        assert connection.execute(every).scalar_one() == before
    with world.fleet.database.reading() as connection:
        assert connection.execute(every).scalar_one() == before + 1
