"""What is done with many devices at once, in SQL, is what pure code says of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from control_plane.fleet import selectors
from control_plane.fleet.selectors import Selector
from control_plane.rollouts.executor import REMIND_S, Executor
from control_plane.store import rollout_orders
from control_plane.store.devices import Devices
from control_plane.store.rollouts import Rollouts
from control_plane.store.schema import deployment, device, report_counter, reported
from firmware_bundles.wire.messages import DeploymentState, FamilyReport, Report
from support.device_order import arrange
from support.rollout_fleet import FAMILY, RowFleet, device_row, rollout

ALL_AT_ONCE = "{family: digits, release: '2', cohort: all, phases: [{share: 1.0, soak_s: 0}]}"
LABELS = [
    {},
    {"site": "berlin"},
    {"site": "berlin", "line": "a"},
    {"site": "paris", "line": "b", "debug": ""},
    {"a.b/c-d": "1", "site": ""},
]
PARTS = ["site", "!site", "debug", "debug=", "line in (a,b)", "line notin (a)", "a.b/c-d=1"]
PARTS += ["site!=berlin", "site in (berlin,paris)", "!debug", "site=", "colour notin (red)"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> RowFleet:
    """One device for each of the labels."""
    made = RowFleet(tmp_path_factory.mktemp("fleet"), size=0)
    rows = [device_row(f"device-{place}") | {"labels": each} for place, each in enumerate(LABELS)]
    with made.database.transaction() as connection:
        connection.execute(insert(device), rows)
    return made


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(PARTS), max_size=4))
def test_sql_selects_as_selectors_match(fleet: RowFleet, parts: list[str]) -> None:
    """A cohort is counted and rolled out to in SQL: the same devices as by its selector."""
    selector = selectors.parse(",".join(parts))
    expected = [f"device-{n}" for n, labels in enumerate(LABELS) if selector.matches(labels)]
    devices = Devices(fleet.database)
    assert devices.members(selector) == expected
    assert devices.count(selector) == len(expected)


@pytest.mark.parametrize("rollout_id", ["example", "größer", "a-b"])
def test_the_store_places_devices_as_the_plain_rule_does(tmp_path: Path, rollout_id: str) -> None:
    """The place of a device follows from the ids alone, wherever it is worked out."""
    fleet = RowFleet(tmp_path, size=40)
    Rollouts(fleet.database).create(rollout(ALL_AT_ONCE, rollout_id), Selector())
    query = select(deployment.c.device_id).order_by(deployment.c.position)
    with fleet.database.reading() as connection:
        assert list(connection.execute(query).scalars()) == arrange(rollout_id, fleet.devices)
    fleet.database.close()


def test_waves_reach_every_device_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few a wave takes, all are offered to, in order; and so they are sent back."""
    monkeypatch.setattr(rollout_orders, "DEVICES_PER_TRANSACTION", 3)
    fleet = RowFleet(tmp_path, size=8)
    fleet.serve("1", fleet.devices[1:])
    rollouts, told = Rollouts(fleet.database), list[str]()
    rollouts.create(rollout(ALL_AT_ONCE), Selector())
    executor = Executor(rollouts, told.extend, lambda: REMIND_S)
    executor.tick()
    order = arrange("example", fleet.devices)
    waves = [set(told[first : first + 3]) for first in (0, 3, 6)]
    assert waves == [set(order[first : first + 3]) for first in (0, 3, 6)]
    assert len(fleet.offered("2")) == 8
    fleet.obey(state="failed")
    told.clear()
    executor.tick()
    # The one that served nothing has no model to go back to.
    assert sorted(told) == fleet.devices[1:]
    fleet.database.close()


def test_only_who_is_online_is_reminded(tmp_path: Path) -> None:
    """A push reaches nobody who is not there; who comes back asks by itself."""
    fleet = RowFleet(tmp_path, size=3)
    rollouts = Rollouts(fleet.database)
    rollouts.create(rollout(ALL_AT_ONCE), Selector())
    Executor(rollouts, lambda _devices: None, lambda: REMIND_S).tick()
    with fleet.database.transaction() as connection:
        gone = update(device).where(device.c.id == fleet.devices[0]).values(is_online=False)
        connection.execute(gone)
    assert sorted(rollouts.silent(rollouts.get("example"))) == fleet.devices[1:]
    fleet.database.close()


def said(device_id: str, counter: int, incarnation: str, state: DeploymentState) -> Report:
    """Return a checked report."""
    family = FamilyReport(family=FAMILY, generation=1, state=state)
    return Report(
        device=device_id,
        incarnation=incarnation * 16,
        counter=counter,
        time=0.0,
        agent_version="1",
        families=(family,),
        inventory={"counter": counter},
    )


SAID = st.builds(
    said,
    st.sampled_from(["device-000", "device-001"]),
    st.integers(1, 4),
    st.sampled_from("ab"),
    st.sampled_from([DeploymentState.FETCHING, DeploymentState.COMMITTED]),
)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> list[RowFleet]:
    """Two fleets of the same two devices."""
    return [RowFleet(tmp_path_factory.mktemp("fleet"), size=2) for _ in range(2)]


@settings(deadline=None, max_examples=25)
@given(st.lists(SAID, max_size=8))
def test_reports_stored_together_are_as_stored_one_by_one(
    twins: list[RowFleet], reports: list[Report]
) -> None:
    """A batch believes the same reports, in the same order, and leaves the same rows."""
    for fleet in twins:
        with fleet.database.transaction() as connection:
            connection.execute(delete(reported))
            connection.execute(delete(report_counter))
            connection.execute(update(device).values(inventory={}, agent_version=""))
    together, single = (Devices(fleet.database) for fleet in twins)
    accepted = together.accept_reports(reports, 5.0)
    assert accepted == [single.accept_reports([report], 5.0)[0] for report in reports]
    for device_id in twins[0].devices:
        assert together.get(device_id) == single.get(device_id)
        assert together.reported(device_id) == single.reported(device_id)
