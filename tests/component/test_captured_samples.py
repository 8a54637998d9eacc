"""Samples from devices into a training set: joined with labels, and the same again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]

from control_plane.cli.main import main
from control_plane.store.database import Database
from control_plane.store.stores import Stores
from control_plane.telemetry.retention import Periods, Retention
from support import fleet_rows, sample_world, segments
from support.http_server import serving


@pytest.fixture
def world(tmp_path: Path) -> Iterator[sample_world.SampleWorld]:
    """A control plane with two devices and one release, and a person who may read samples."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    made = sample_world.SampleWorld(database)
    yield made
    database.close()


def _run(world: sample_world.SampleWorld, *arguments: str) -> int:
    with serving(world.app()) as server, pytest.raises(SystemExit) as ended:
        main(["--server", server, "--token", world.token, "samples", *arguments])
    return int(ended.value.code or 0)


def test_a_training_set_has_its_labels_and_says_where_each_row_is_from(
    world: sample_world.SampleWorld, tmp_path: Path
) -> None:
    """Rows in order, the first label of each, values as they were sent; sources by segment."""
    world.send("bee", segments.samples([4, 6], model=world.model))
    world.send("ant", segments.samples([2, 9], model=world.model, classes=[0, 1]))
    world.send("ant", segments.labels([1, 2], [9, 2], [0, 1], model=world.model))
    world.send("ant", segments.labels([3], [9], [1], model=world.model))
    world.later(120)
    out = tmp_path / "set"
    assert _run(world, "export", "--family", "digits", "--out", str(out)) == 0
    table = parquet.read_table(out / "samples.parquet").to_pylist()
    assert [(row["device"], row["sequence"], row["label"]) for row in table] == [
        ("ant", 2, 1),
        ("ant", 9, 0),
        ("bee", 4, None),
        ("bee", 6, None),
    ]
    first = table[0]
    assert (first["predicted_label"], first["true_label"]) == ("no", "yes")
    assert (first["values"], first["places"], first["scores"]) == ([2, -2], [0, 3], [0.25, 0.75])
    assert (first["reasons"], first["time"]) == ("confidence,share", 1_000.0)
    assert (first["model"], first["release"]) == (world.model, "digits/1/manifest.json")
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["rows"], manifest["labelled"]) == (4, 2)
    data = (out / "samples.parquet").read_bytes()
    assert manifest["file"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert [(each["device"], each["first"], each["last"]) for each in manifest["sources"]] == [
        ("ant", 2, 9),
        ("bee", 4, 6),
    ]
    assert manifest["models"][0]["inputs"] == [["t", 2]]
    assert world.notes == [("samples.read", "family/digits")]


def test_the_same_query_gives_the_same_bytes(
    world: sample_world.SampleWorld, tmp_path: Path
) -> None:
    """Also when samples and labels came meanwhile, and with pages of another size."""
    for device in ("ant", "bee"):
        for number in range(1, 12, 2):
            world.send(device, segments.samples([number, number + 1], model=world.model))
    world.send("ant", segments.labels([1], [3], [0], model=world.model))
    world.later(120)
    first, second = tmp_path / "first", tmp_path / "second"
    assert _run(world, "export", "--family", "digits", "--out", str(first)) == 0
    world.send("ant", segments.samples([50], model=world.model))
    world.send("ant", segments.labels([2], [5], [1], model=world.model))
    world.later(500)
    world.page_max = 3
    again = ("export", "--again", str(first / "manifest.json"))
    assert _run(world, *again, "--out", str(second)) == 0
    for name in ("samples.parquet", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    third = tmp_path / "third"
    assert _run(world, "export", "--family", "digits", "--out", str(third)) == 0
    assert json.loads((third / "manifest.json").read_text())["rows"] == 25
    shutil.copy(first / "manifest.json", tmp_path / "copy.json")
    file = tmp_path / "one.parquet"
    assert _run(world, "export", "--again", str(tmp_path / "copy.json"), "--out", str(file)) == 0
    assert file.read_bytes() == (first / "samples.parquet").read_bytes()


def test_a_query_narrows(world: sample_world.SampleWorld, tmp_path: Path) -> None:
    """By labels, by version, by cohort, by time; where nothing is left, it says so."""
    world.send("ant", segments.samples([1, 2], model=world.model))
    world.send("ant", segments.samples([5], model="c" * 64))
    world.send("bee", segments.samples([1], model=world.model))
    world.send("ant", segments.labels([1], [2], [1], model=world.model))
    world.later(120)

    def rows(*options: str) -> list[tuple[str, int]]:
        out = tmp_path / "narrow.parquet"
        assert _run(world, "export", "--family", "digits", *options, "--out", str(out)) == 0
        return [(row["device"], row["sequence"]) for row in parquet.read_table(out).to_pylist()]

    assert rows("--labelled-only") == [("ant", 2)]
    assert rows("--version", "1") == [("ant", 1), ("ant", 2), ("bee", 1)]
    assert rows("--cohort", "berlin") == [("ant", 1), ("ant", 2), ("ant", 5)]
    late = ("export", "--family", "digits", "--since", str(world.now), "--out", str(tmp_path))
    assert _run(world, *late) == 2
    assert _run(world, "export", "--again", str(tmp_path / "none.json"), "--out", "x") == 2
    assert _run(world, "list") == 0


def test_samples_are_for_operators(world: sample_world.SampleWorld, tmp_path: Path) -> None:
    """A viewer learns how many there are, and no more."""
    world.send("ant", segments.samples([1], model=world.model))
    world.later(120)
    world.token = world.viewer
    assert _run(world, "list") == 0
    assert _run(world, "export", "--family", "digits", "--out", str(tmp_path / "x")) == 5
    assert world.notes == []


def test_samples_count_once_and_end(world: sample_world.SampleWorld) -> None:
    """A copy is acknowledged and not stored; after their time samples are deleted, counted."""
    sent = segments.samples([1, 2], model=world.model)
    world.send("ant", sent, sent)
    (row,) = world.samples.counts()
    assert (row.samples, row.devices, row.version) == (2, 1, "1")
    assert world.ingest.tally.duplicates == 1
    stores = Stores.over(world.database)
    retention = Retention(stores.pruning, Periods(), lambda _: None, lambda: world.now)
    retention.delete(world.now + 91 * 86_400)
    assert world.samples.counts() == []
    told = {each.what: each.rows for each in stores.pruning.deletions()}
    assert told["segments of samples"] == 1
    assert world.now + 1 > fleet_rows.NOW
