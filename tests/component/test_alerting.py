"""Alerts of a fleet: found in rounds, kept over restarts, acknowledged by a named person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from control_plane.alerts.decision import Kind, State
from control_plane.alerts.rounds import KEPT_S
from control_plane.api.auth import Role
from control_plane.cli.main import main
from control_plane.store import schema
from firmware_bundles.errors import ConflictError
from support import fleet_rows
from support.http import AppTransport
from support.http_server import serving
from support.watch_world import WatchWorld

ALL = tuple(State)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[WatchWorld]:
    """Give a world with four devices that are connected."""
    made = WatchWorld(tmp_path)
    for number in range(4):
        fleet_rows.enrol(made.database, f"device-{number}", is_online=True)
    yield made
    made.close()


def client(world: WatchWorld, role: Role, name: str = "ann") -> httpx.Client:
    """A program with a token of this role."""
    return httpx.Client(
        transport=AppTransport(world.app()),
        base_url="http://shoal.test/api/v1",
        headers={"Authorization": f"Bearer {world.token(role, name)}"},
    )


def _change(world: WatchWorld, device: str = "device-0") -> None:
    world.send(device, *range(6))
    world.send(device, 6, 7, 8, shift=1.5)
    world.tick()


def _kinds(world: WatchWorld, *states: State) -> list[Kind]:
    return [each.kind for each in world.stores.alerts.find_all(states or ALL)]


def test_a_device_that_changed_is_an_alert_until_it_was_quiet(world: WatchWorld) -> None:
    """It names the device and the feature; a restart raises nothing again; then it is resolved."""
    _change(world)
    (alert,) = world.stores.alerts.find_all([State.OPEN])
    assert (alert.kind, alert.device_id) == (Kind.CHANGE, "device-0")
    assert "x[1]" in alert.summary
    assert alert.details["findings"][0]["column"] == "x[1]"
    world.restart()
    world.tick()
    assert _kinds(world) == [Kind.CHANGE]
    world.send("device-0", *range(20, 26))
    world.tick()
    assert _kinds(world, State.RESOLVED) == [Kind.CHANGE]
    world.tick()
    assert len(_kinds(world)) == 1


def test_what_devices_drop_refuse_or_keep_silent_is_an_alert(world: WatchWorld) -> None:
    """Counts that moved, and a device that says nothing; devices without access are left alone."""
    world.tick()
    with world.database.transaction() as connection:
        for device, buffer in (
            ("device-0", {"rows_dropped": 40}),
            ("device-1", {"segments_parked": 2, "rows_dropped": 0}),
        ):
            connection.execute(
                update(schema.device).where(schema.device.c.id == device).values(buffer=buffer)
            )
        connection.execute(
            update(schema.device)
            .where(schema.device.c.id.in_(["device-2", "device-3"]))
            .values(is_online=False, last_seen=fleet_rows.NOW)
        )
        connection.execute(
            update(schema.device).where(schema.device.c.id == "device-3").values(revoked=1.0)
        )
    fleet_rows.detect(world.database, "device-0", "trust.signature_invalid", 3)
    fleet_rows.detect(world.database, "device-1", "device.storage_full", 3)
    world.tick()
    assert sorted(_kinds(world)) == [Kind.DROPPED, Kind.PARKED, Kind.REFUSED]
    world.clock.now += 500
    world.tick()
    assert _kinds(world, State.OPEN) == [Kind.SILENT]
    assert len(_kinds(world, State.RESOLVED)) == 3


def test_a_cohort_of_which_many_changed_is_one_alert(world: WatchWorld) -> None:
    """Beside the devices' own."""
    world.members = {"berlin": [f"device-{number}" for number in range(4)], "paris": []}
    for number in range(3):
        _change(world, f"device-{number}")
    found = world.stores.alerts.find_all([State.OPEN], Kind.COHORT_CHANGE)
    assert [(each.cohort, each.details["changed"]) for each in found] == [("berlin", 3)]
    assert _kinds(world).count(Kind.CHANGE) == 3


def test_a_change_that_persists_and_worse_labels_ask_for_training(world: WatchWorld) -> None:
    """The alert carries the evidence and the command; without labels there is none."""
    world.send("device-0", *range(6))
    world.send("device-0", *range(6, 14), shift=2.0)
    world.tick()
    assert world.row().standing.rings >= 3
    assert Kind.RETRAINING not in _kinds(world)
    fleet_rows.label(world.database, "device-0", world.model, labelled=300, wrong=120)
    world.tick()
    (alert,) = world.stores.alerts.find_all([State.OPEN], Kind.RETRAINING)
    assert alert.details["evidence"] == "labels"
    assert alert.details["labels"]["value"] == pytest.approx(0.6)
    assert alert.details["command"].startswith("shoal samples export --family digits --version 1")
    assert alert.details["drift"]["named"] == ["device-0"]


def test_a_person_takes_notice_in_their_own_name(world: WatchWorld) -> None:
    """The token's name stands with the alert and in the audit log; viewers only look."""
    _change(world)
    with client(world, Role.VIEWER) as viewer:
        listed = viewer.get("alerts").json()
        assert (listed["open"], listed["acknowledged"]) == (1, 0)
        number = listed["alerts"][0]["alert"]
        assert viewer.post(f"alerts/{number}/acknowledge", json={}).status_code == 403
    with client(world, Role.OPERATOR, "bea") as operator:
        answer = operator.post(f"alerts/{number}/acknowledge", json={"note": "I look"})
        assert (answer.json()["acknowledged_by"], answer.json()["note"]) == ("bea", "I look")
        again = operator.post(f"alerts/{number}/acknowledge", json={})
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert "acknowledged by bea" in again.json()["detail"]
        assert operator.post("alerts/99/acknowledge", json={}).status_code == 404
        assert operator.get("alerts", params={"state": "open"}).json()["alerts"] == []
        shown = operator.get(f"alerts/{number}").json()
        assert shown["details"]["findings"][0]["column"] == "x[1]"
    told = world.stores.audit.after(0, 10, action="alert.")
    assert [(each.actor.split(":")[1], each.subject) for each in told] == [
        ("bea", f"alert/{number}")
    ]


def test_an_operator_lets_a_device_be_commissioned_anew(
    world: WatchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever moved a camera ends its alert so; who only looks may not."""
    _change(world)
    asked = {"device": "device-0", "family": "digits"}
    with client(world, Role.VIEWER) as viewer:
        assert viewer.post("telemetry/recommission", json=asked).status_code == 403
    with serving(world.app()) as url:
        monkeypatch.setenv("SHOAL_SERVER", url)
        monkeypatch.setenv("SHOAL_TOKEN", world.token(Role.OPERATOR))
        with pytest.raises(SystemExit) as ended:
            main(["telemetry", "recommission", "device-0", "--family", "digits"])
    assert ended.value.code == 0
    world.tick()
    assert _kinds(world, State.RESOLVED) == [Kind.CHANGE]
    told = world.stores.audit.after(0, 9, action="device.commissioned")
    assert [each.subject for each in told] == ["device/device-0"]


def test_what_has_long_been_over_is_forgotten_but_how_far_a_count_had_come(
    world: WatchWorld,
) -> None:
    """The newest alert of a count stays, or old drops would be told as new ones."""
    for rows in (4, 7):
        with world.database.transaction() as connection:
            connection.execute(update(schema.device).values(buffer={"rows_dropped": rows}))
        world.tick()
        world.clock.now += 200
        world.tick()
    assert len(_kinds(world, State.RESOLVED)) == 8
    world.clock.now += KEPT_S
    world.tick()
    assert len(_kinds(world, *ALL)) == 4


def test_two_who_take_notice_at_once_are_told_apart(world: WatchWorld) -> None:
    """The one who came second is told who was first."""
    _change(world)
    (alert,) = world.stores.alerts.find_all([State.OPEN])
    world.rounds.acknowledge(alert.number, "ann")
    with pytest.raises(ConflictError, match="acknowledged by ann"):
        world.rounds.acknowledge(alert.number, "bea")


def test_the_commands_list_show_and_acknowledge(
    world: WatchWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person types, as text and as JSON."""
    _change(world)
    with serving(world.app()) as url:
        monkeypatch.setenv("SHOAL_SERVER", url)
        monkeypatch.setenv("SHOAL_TOKEN", world.token(Role.OPERATOR, "bea"))

        def run(*words: str) -> str:
            with pytest.raises(SystemExit) as ended:
                main(["alert", *words])
            assert ended.value.code == 0
            return capsys.readouterr().out

        assert "device device-0 changed" in run("list")
        assert run("list", "--state", "resolved") == ""
        number = str(json.loads(run("list", "--output", "json"))["alerts"][0]["alert"])
        assert "x[1]" in run("show", number)
        run("acknowledge", number, "--note", "a lamp")
        shown = json.loads(run("show", number, "--output", "json"))
        assert (shown["state"], shown["note"]) == ("acknowledged", "a lamp")
