"""What is said of devices: whether they changed, and how far they are from baseline and fleet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from control_plane.api.auth import Role
from control_plane.cli.main import main
from control_plane.telemetry.apart import apart, largest
from firmware_bundles.sketches.codec import parse_sketch
from firmware_bundles.sketches.sketch import Sketch
from support import fleet_rows
from support.http import AppTransport
from support.http_server import serving
from support.watch_world import FACTS, WatchWorld, window


@pytest.fixture
def world(tmp_path: Path) -> Iterator[WatchWorld]:
    """Three devices, the first of which changed; the cohort berlin has the last two."""
    made = WatchWorld(tmp_path)
    for number in range(3):
        fleet_rows.enrol(made.database, f"device-{number}", is_online=True)
        made.send(f"device-{number}", *range(number * 20, number * 20 + 6))
    made.send("device-0", 6, 7, 8, shift=1.5)
    made.tick()
    made.members = {"berlin": ["device-1", "device-2"]}
    yield made
    made.close()


@pytest.fixture
def client(world: WatchWorld) -> Iterator[httpx.Client]:
    """A program with a viewer's token."""
    with httpx.Client(
        transport=AppTransport(world.app()),
        base_url="http://shoal.test/api/v1/telemetry",
        headers={"Authorization": f"Bearer {world.token(Role.VIEWER)}"},
    ) as made:
        yield made


def test_drift_says_which_devices_changed_since_when_and_in_what(client: httpx.Client) -> None:
    """Beside the skew of the whole cohort, with its interval and n."""
    (model,) = client.get("drift").json()
    states = {each["device_id"]: each["state"] for each in model["devices"]}
    assert states == {"device-0": "changed", "device-1": "stable", "device-2": "stable"}
    changed = model["devices"][0]
    assert changed["features"][0]["column"] == "x[1]"
    assert changed["since"] > fleet_rows.NOW - 90 * 3_600
    columns = {each["name"]: each for each in model["columns"]}
    assert columns["x[1]"]["shift_low"] > 0.1 > columns["x[0]"]["shift_low"]
    assert columns["x[1]"]["shift_low"] < columns["x[1]"]["shift"] < columns["x[1]"]["shift_high"]
    assert (columns["x[1]"]["n"], columns["x[1]"]["psi"] > columns["x[0]"]["psi"]) == (6_300, True)
    (berlin,) = client.get("drift", params={"cohort": "berlin"}).json()
    assert [each["state"] for each in berlin["devices"]] == ["stable", "stable"]


def test_a_device_is_compared_with_the_rest_of_its_fleet(client: httpx.Client) -> None:
    """The one that differs stands out; what it differs from has none of its own rows."""
    found = {each["device_id"]: each for each in client.get("devices").json()}
    first = found["device-0"]
    assert (first["rows"], first["fleet_rows"], first["fleet_devices"]) == (2_700, 3_600, 2)
    assert first["columns"][0]["column"] == "x[1]"
    assert first["largest"] > 0.3 > found["device-1"]["largest"] * 0.9
    assert first["change"]["state"] == "changed"
    (alone,) = client.get("devices", params={"device": "device-0"}).json()
    assert alone == first
    named = client.get("devices", params={"cohort": "berlin"}).json()
    assert {each["fleet_devices"] for each in named} == {1}


def test_a_device_without_company_has_no_distance(world: WatchWorld, client: httpx.Client) -> None:
    """Beside nobody nothing can be said, and nothing is made up."""
    world.members = {"one": ["device-0"]}
    with httpx.Client(
        transport=AppTransport(world.app()),
        base_url="http://shoal.test/api/v1/telemetry",
        headers=client.headers,
    ) as fresh:
        (alone,) = fresh.get("devices", params={"cohort": "one"}).json()
    assert (alone["fleet_devices"], alone["fleet_rows"], alone["largest"]) == (0, 0, 0.0)
    assert {each["shift"] for each in alone["columns"]} == {None}


def test_a_columns_histograms_stand_side_by_side(world: WatchWorld, client: httpx.Client) -> None:
    """The baseline, what came, and a device's own reference, over the same bins."""
    asked = {"model": world.model, "column": "x[1]"}
    fleet = client.get("histogram", params=asked).json()
    assert fleet["reference"] is None
    assert fleet["baseline"]["rows"] == 2_000
    assert fleet["current"]["rows"] == sum(fleet["current"]["counts"]) == 6_300
    one = client.get("histogram", params=asked | {"device": "device-0"}).json()
    assert (one["current"]["rows"], one["reference"]["rows"]) == (2_700, 1_500)
    assert len(one["edges"]) + 2 == len(one["reference"]["counts"])
    missing = client.get("histogram", params=asked | {"column": "y"})
    assert (missing.status_code, missing.json()["code"]) == (404, "input.not_found")
    assert client.get("histogram", params=asked | {"model": "0" * 64}).status_code == 404


def test_the_rest_is_the_whole_less_the_device() -> None:
    """Exactly: the comparison of two halves is that of the halves themselves."""
    sketches = [parse_sketch(window(at, "a" * 64, shift=at / 2).body, FACTS) for at in range(2)]
    whole = Sketch(FACTS)
    for each in sketches:
        whole.merge(each)
    whole.subtract(sketches[1])
    assert apart(sketches[1], whole) == apart(sketches[1], sketches[0])
    found = apart(sketches[1], sketches[0])
    assert found[0].column == "x[1]"
    assert found[0].shift_low < 0.5 < found[0].shift_high
    assert largest(found) == found[0].shift_low
    assert np.isnan(apart(Sketch(FACTS), sketches[0])[0].shift)


def test_the_commands_name_devices_features_and_intervals(
    world: WatchWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person reads, and the same as JSON."""
    with serving(world.app()) as url:
        monkeypatch.setenv("SHOAL_SERVER", url)
        monkeypatch.setenv("SHOAL_TOKEN", world.token(Role.VIEWER))

        def run(*words: str) -> str:
            with pytest.raises(SystemExit) as ended:
                main(["telemetry", *words])
            assert ended.value.code == 0
            return capsys.readouterr().out

        lines = run("drift").splitlines()
        assert "device-0" in lines[1]
        assert "changed" in lines[1]
        assert "x[1]" in lines[1]
        assert any("sd" in line and " to " in line for line in lines)
        assert json.loads(run("drift", "--output", "json"))[0]["devices"][0]["rings"] >= 1
        ranked = run("devices", "--columns", "1").splitlines()
        assert "device-0" in ranked[1]
        assert "x[1]" in ranked[1]
        assert len(ranked) == 4
