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
    assert 0.9 < by_version["2"]["low"] < 0.98 < by_version["2"]["high"] < 1
    assert by_version["2"]["devices"] == 4
    assert answer["pending"] == 1


def test_accuracy_is_told_by_arm_and_device(
    world: page_world.PageWorld, client: httpx.Client
) -> None:
    """A rollout's devices by arm, one device, a cohort; a rollout that is none is refused."""

    def ask(**filters: str) -> list[tuple[object, ...]]:
        answer = client.get("/api/v1/telemetry/accuracy", params=filters).json()["models"]
        return [(e["version"], e["arm"], e["device_id"], e["labelled"]) for e in answer]

    arms = ask(rollout="better-4d5e6f")
    assert sorted(map(str, arms)) == sorted(
        map(str, [("1", "control", None, 800), ("2", "candidate", None, 800)])
    )
    assert ask(device="device-1", by_device="true") == [("2", None, "device-1", 200)]
    assert sum(int(str(e[3])) for e in ask(cohort="berlin")) == 800
    assert ask(past_s="0.5", cohort="berlin") == ask(cohort="berlin")
    answer = client.get("/api/v1/telemetry/accuracy", params={"rollout": "nowhere"})
    assert (answer.status_code, answer.json()["code"]) == (404, "input.not_found")


def test_the_estimate_stands_beside_whether_inputs_drift(
    world: page_world.PageWorld, client: httpx.Client
) -> None:
    """Confidences promise an accuracy; devices whose inputs moved say not to believe it.

    So does a device whose watch rang, however near the baseline it is.
    """
    world.rang["device-2"] = True
    answer = client.get("/api/v1/telemetry/accuracy", params={"by_device": "true"}).json()
    drifting = {e["device_id"]: e["estimate"]["is_drifting"] for e in answer["models"]}
    assert drifting == {f"device-{at}": at % 2 == 1 or at == 2 for at in range(8)}
    estimate = answer["models"][0]["estimate"]
    assert 0.9 < estimate["accuracy"] <= 1
    assert estimate["rows"] == 400


def test_segments_are_compared(world: page_world.PageWorld, client: httpx.Client) -> None:
    """Rates of each segment with the difference and its interval; the few are named, not compared.

    Counts by hand: of segment "a" 90 of 150 are selected, of "b" 30 of 150, of "c" 1 of 2.
    """
    model = page_world.declare(world, ("a", "b", "c"), ("revenue",))
    rows = [(0, 1, 80), (0, 0, 10), (1, 1, 20), (1, 0, 10), (2, 1, 1)]
    rows += [(0, 1, -10), (0, 0, -50), (1, 1, -60), (1, 0, -60), (2, 0, -1)]
    page_world.tell(world, model, rows)
    answer = client.get(
        "/api/v1/telemetry/fairness", params={"favourable": "1", "device": "device-9"}
    ).json()
    (found,) = answer
    parity = found["demographic_parity"]
    assert [(e["name"], e["k"], e["n"]) for e in parity["rates"]] == [
        ("a", 90, 150),
        ("b", 30, 150),
    ]
    assert parity["suppressed"] == ["c"]
    assert parity["difference"] == pytest.approx(0.4)
    assert parity["low"] < 0.4 < parity["high"]
    opportunity = found["equal_opportunity"]
    assert opportunity["difference"] is None
    few = {"favourable": "1", "device": "device-9", "rows_min": "50"}
    (found,) = client.get("/api/v1/telemetry/fairness", params=few).json()
    assert found["equal_opportunity"]["difference"] == pytest.approx(80 / 90 - 20 / 80)
    assert found["equalised_odds"] == pytest.approx(80 / 90 - 20 / 80)
    unknown = client.get("/api/v1/telemetry/fairness", params={"favourable": "cat"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "input.not_found")


def test_business_values_are_summed_by_segment(
    world: page_world.PageWorld, client: httpx.Client
) -> None:
    """Count, mean, deviation and range of a declared value, in its own unit."""
    model = page_world.declare(world, ("", "night"), ("revenue",))
    page_world.bring(world, model, [(0, 1.0), (0, 2.0), (1, 4.5)])
    answer = client.get("/api/v1/telemetry/accuracy", params={"device": "device-9"}).json()
    first, second = answer["models"][0]["values"]
    assert (first["segment"], first["n"], first["mean"]) == ("-", 2, 1.5)
    assert first["deviation"] == pytest.approx(0.5**0.5)
    assert (first["minimum"], first["maximum"]) == (1.0, 2.0)
    assert (second["segment"], second["mean"], second["deviation"]) == ("night", 4.5, None)


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


def test_latency_by_group(world: page_world.PageWorld, client: httpx.Client) -> None:
    """Percentiles with their bounds by model and arm, device or cohort; storage is counted."""
    answer = client.get("/api/v1/telemetry/latency", params={"by": "device"}).json()
    assert {each["group"] for each in answer} == {f"device-{at}" for at in range(8)}
    cohort = client.get("/api/v1/telemetry/latency", params={"by": "cohort"}).json()
    assert {(each["version"], each["group"], each["devices"]) for each in cohort} >= {
        ("1", "berlin", 2),
        ("2", "berlin", 2),
    }
    for each in answer:
        assert each["p50"]["low_us"] <= each["mean_us"] < each["p50"]["high_us"]
        assert each["answered"] == each["counted"] > 0
    assert client.get("/api/v1/telemetry/latency", params={"by": "moon"}).status_code == 422
    world.send("device-0", segments.predictions([5000], [1]))
    storage = client.get("/api/v1/telemetry/storage").json()
    assert storage["deleted"] == []
    kinds = {each["kind"]: each["segments"] for each in storage["stored"]}
    assert kinds["predictions"] >= 8


def test_the_command_tells_the_same(
    world: page_world.PageWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb prints a table, or with --output json what the API said."""
    with serving(world.app()) as server:
        options = ["--server", server, "--token", world.token]
        tables = {}
        berlin = ["--cohort", "berlin"]
        narrowed = {
            "predictions": berlin,
            "accuracy": [],
            "drift": berlin,
            "fairness": ["7"],
            "latency": berlin,
            "storage": [],
        }
        for verb, more in narrowed.items():
            for output in ("table", "json"):
                with pytest.raises(SystemExit) as ended:
                    main([*options, "--output", output, "telemetry", verb, *more])
                assert ended.value.code in (0, None)
                tables[verb, output] = capsys.readouterr().out
    assert "device-1" in tables["predictions", "table"]
    assert "device-0" not in tables["predictions", "table"]
    assert "98.00%" in tables["accuracy", "table"]
    assert "demographic parity" in tables["fairness", "table"]
    assert "image[2" in tables["drift", "table"]
    assert "P99" in tables["latency", "table"]
    assert "predictions" in tables["storage", "table"]
    assert json.loads(tables["accuracy", "json"])["pending"] == 0
    assert len(json.loads(tables["drift", "json"])) == 2
