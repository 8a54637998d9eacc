"""Telemetry over HTTP and from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from control_plane.cli.main import main
from control_plane.store.database import Database
from support import page_world, segments
from support.http import AppTransport
from support.http_server import serving


@pytest.fixture
def world(tmp_path: Path) -> Iterator[page_world.PageWorld]:
    """A full control plane."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    made = page_world.PageWorld(database)
    page_world.fill(made)
    yield made
    database.close()


@pytest.fixture
def client(world: page_world.PageWorld) -> Iterator[httpx.Client]:
    """A program with a token."""
    headers = {"Authorization": f"Bearer {world.token}"}
    with httpx.Client(
        transport=AppTransport(world.app()), base_url="http://shoal.test", headers=headers
    ) as made:
        yield made


def test_predictions_stand_beside_what_devices_answered(client: httpx.Client) -> None:
    """Received and answered of each device and model, and sums by model; a cohort narrows."""
    answer = client.get("/api/v1/telemetry/predictions").json()
    first = answer["devices"][0]
    assert (first["device_id"], first["answered"], first["received"]) == ("device-0", 1000, 900)
    assert first["version"] == "2"
    sums = {each["version"]: (each["devices"], each["received"]) for each in answer["models"]}
    assert sums == {"1": (4, 3600), "2": (4, 3600)}
    berlin = client.get("/api/v1/telemetry/predictions", params={"cohort": "berlin"}).json()
    assert [row["device_id"] for row in berlin["devices"]] == [
        f"device-{at}" for at in (1, 3, 5, 7)
    ]


def test_accuracy_counts_labels_by_model(world: page_world.PageWorld, client: httpx.Client) -> None:
    """Labels, wrong answers and the labels that wait for their predictions."""
    world.send("device-0", segments.labels([1000], [99999], [1]))
    answer = client.get("/api/v1/telemetry/accuracy").json()
    by_version = {each["version"]: each for each in answer["models"]}
    assert by_version["2"]["labelled"] == 800
    assert by_version["2"]["wrong"] == 16
    assert by_version["2"]["accuracy"] == pytest.approx(0.98)
    assert answer["pending"] == 1


def test_drift_merges_the_cohort(client: httpx.Client) -> None:
    """All rows of the cohort's windows, and the shifted columns far from the baseline."""
    answer = client.get(
        "/api/v1/telemetry/drift", params={"cohort": "berlin", "family": "digits"}
    ).json()
    assert {each["version"]: (each["rows"], each["windows"]) for each in answer} == {
        "1": (800, 2),
        "2": (800, 2),
    }
    columns = {column["name"]: column for column in answer[0]["columns"]}
    assert columns["image[21]"]["p"] < 1e-12
    assert columns["confidence"]["p"] > 1e-4
    assert columns["image[21]"]["n"] == 800


def test_unknown_names_are_refused(client: httpx.Client) -> None:
    """An unknown cohort is a problem with its code, an unknown family has no windows."""
    answer = client.get("/api/v1/telemetry/drift", params={"cohort": "nowhere"})
    assert (answer.status_code, answer.json()["code"]) == (404, "input.not_found")
    assert client.get("/api/v1/telemetry/drift", params={"family": "other"}).json() == []


def test_a_model_without_a_readable_baseline_is_left_out(world: page_world.PageWorld) -> None:
    """Missing chunks or a window of an unpublished model end no answer."""
    world.send("device-0", segments.window(2, b"\x01rubbish", 5))
    assert {each.version for each in world.drift.find(None, None, 60.0)} == {"1", "2"}


def test_the_command_tells_the_same(
    world: page_world.PageWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb prints a table, or with --output json what the API said."""
    with serving(world.app()) as server:
        options = ["--server", server, "--token", world.token]
        tables = {}
        berlin = ["--cohort", "berlin"]
        narrowed = {"predictions": berlin, "accuracy": [], "drift": berlin}
        for verb in narrowed:
            for output in ("table", "json"):
                with pytest.raises(SystemExit) as ended:
                    main(
                        [*options, "--output", output, "telemetry", verb, "--cohort", "berlin"]
                        if verb != "accuracy"
                        else [*options, "--output", output, "telemetry", verb]
                    )
                assert ended.value.code in (0, None)
                tables[verb, output] = capsys.readouterr().out
    assert "device-1" in tables["predictions", "table"]
    assert "device-0" not in tables["predictions", "table"]
    assert "98.00%" in tables["accuracy", "table"]
    assert "image[2" in tables["drift", "table"]
    assert json.loads(tables["accuracy", "json"])["pending"] == 0
    assert len(json.loads(tables["drift", "json"])) == 2
