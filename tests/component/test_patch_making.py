"""Patches on the control plane: made for what the fleet runs, told of, and forgotten in time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from control_plane.fleet.assignments import patched
from control_plane.releases.patch_maker import PatchMaker
from control_plane.store import many, schema
from control_plane.store.devices import Desired, Devices, store_desired
from control_plane.store.patches import Pair
from control_plane.store.releases import ReleaseRow, Releases
from firmware_bundles import chunks, manifest, patches
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import Policy
from support import fleet_rows
from support.bundles import Sample
from support.release_service import ReleaseService

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = Path(__file__).parents[1] / "vectors" / "patches"
NOW = fleet_rows.NOW


class Making(ReleaseService):
    """A control plane with the releases that are put into it, and one device."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, NOW)
        self.releases: dict[str, Sample] = {}
        self.digests: dict[str, str] = {}
        self.devices = Devices(self.database)
        fleet_rows.enrol(self.database, "d1")
        self.maker = self.make_maker(64 * 1024 * 1024)

    def make_maker(self, bytes_max: int) -> PatchMaker:
        """A patch maker, as `shoal serve` makes it."""
        return PatchMaker(
            self.patches,
            self.registry,
            self.chunk_files,
            announce=self.publisher.announce_changes,
            bytes_max=bytes_max,
            clock=lambda: NOW,
        )

    def put(self, version: str, model: str) -> None:
        """Take a release whose model is one of the trained ones."""
        sample = Sample(version=version)
        sample.files["model.tflite"] = (MODELS / f"{model}.tflite").read_bytes()
        facts = manifest.encode(sample.manifest())
        for data in (*sample.files.values(), facts):
            for digest, piece in chunks.cut(data):
                self.chunk_files.put(digest, piece)
        self.releases[version] = sample
        self.digests[version] = chunks.digest_of(facts)
        row = ReleaseRow(
            path=f"digits/{version}/manifest.json",
            family="digits",
            version=version,
            number=len(self.releases),
            digest=self.digests[version],
            length=len(facts),
            manifest=facts,
            is_withdrawn=False,
            published=NOW,
        )
        Releases(self.database).replace({}, NOW, added=row)

    def runs(self, version: str) -> None:
        """Let the device say what it serves."""
        row = {"device_id": "d1", "family": "digits", "generation": 1, "received": NOW}
        with self.database.transaction() as connection:
            serving = {"serving_digest": self.digests[version], "serving_version": version}
            many.upsert(connection, schema.reported, [row | serving])

    def shall_run(self, version: str) -> None:
        """Let the device be told to run a release."""
        wanted = Desired(
            device_id="d1",
            family="digits",
            path=f"digits/{version}/manifest.json",
            digest=self.digests[version],
            length=900,
            rollout_id="r1",
            arm="candidate",
            policy=Policy(),
        )
        with self.database.transaction() as connection:
            store_desired(connection, [wanted], {"d1": 2}, NOW)

    def retained_chunks(self) -> set[str]:
        """The chunks that the broker retains now."""
        return {topics.parse_chunk(topic) or "" for topic in self.retained.messages}


@pytest.fixture
def making(tmp_path: Path) -> Iterator[Making]:
    """Give a control plane with a device that runs the base model."""
    made = Making(tmp_path)
    made.put("1", "base")
    made.runs("1")
    yield made
    made.database.close()


def test_a_new_release_gets_a_patch_that_makes_its_model(making: Making) -> None:
    """Retained at the broker, and named in the order of the device that has the source."""
    making.put("2", "head")
    making.shall_run("2")
    making.maker.tick()
    (reference,) = making.patches.of_device("d1")["digits"]
    (order,) = patched(making.devices.orders("d1"), making.patches.of_device("d1"))
    assert order.patches == (reference,)
    source = making.releases["1"].files["model.tflite"]
    target = making.releases["2"].files["model.tflite"]
    assert reference.source == chunks.digest_of(source)
    patch = making.retained.messages[topics.chunk(reference.content)]
    assert (len(patch), len(patch) < 0.05 * len(target)) == (reference.length, True)
    pieces = patches.apply(
        io.BytesIO(patch),
        io.BytesIO(source),
        digest=chunks.digest_of(target),
        length=len(target),
    )
    assert b"".join(pieces) == target


def test_a_patch_is_made_once(making: Making) -> None:
    """Also one that turned out not to be worth its bytes."""
    making.put("2", "head")
    making.maker.tick()
    before = making.patches.rows()
    making.maker.tick()
    assert making.patches.rows() == before
    assert [row.file for row in before] == ["model.tflite"]


def test_what_nobody_needs_any_more_leaves_broker_and_disk(making: Making) -> None:
    """The patch goes when its last device moved on; the releases' own chunks stay."""
    making.put("2", "head")
    making.publisher.announce()
    plain = making.retained_chunks()
    making.maker.tick()
    (row,) = making.patches.rows()
    assert making.retained_chunks() == plain | set(row.chunks)
    making.runs("2")
    making.maker.tick()
    assert making.patches.rows() == []
    assert making.retained_chunks() == plain
    assert making.chunk_files.missing(row.chunks) == list(row.chunks)
    assert making.chunk_files.missing(plain) == []


def test_a_budget_of_nothing_makes_no_patches(making: Making) -> None:
    """It is how an operator switches them off."""
    making.put("2", "head")
    making.make_maker(0).tick()
    assert making.patches.rows() == []


def test_a_release_whose_chunks_are_gone_holds_nothing_up(making: Making) -> None:
    """The next pair is made all the same."""
    making.put("2", "tuned")
    making.shall_run("2")
    making.put("3", "head")
    making.publisher.announce()
    gone = making.registry.manifest(making.digests["3"]).file("model.tflite").chunks[0]
    making.chunk_files.remove(gone)
    for _ in range(2):
        making.maker.tick()
    assert {row.pair for row in making.patches.rows()} == {
        Pair(making.digests["1"], making.digests["2"])
    }


def test_a_patch_that_lost_its_chunks_is_made_again(making: Making) -> None:
    """As after a restore; meanwhile it holds up no announcement."""
    making.put("2", "head")
    making.maker.tick()
    (row,) = making.patches.rows()
    making.chunk_files.remove(row.chunks[0])
    making.publisher.announce()
    assert row.chunks[0] not in making.retained_chunks()
    making.make_maker(1_000_000).tick()
    assert making.chunk_files.missing(row.chunks) == []
    assert set(row.chunks) <= making.retained_chunks()


def test_what_came_by_patch_is_added_up(making: Making) -> None:
    """Over the devices that serve the release and told of its download."""
    making.put("2", "head")
    fleet_rows.enrol(making.database, "d2")
    fleet_rows.enrol(making.database, "d3")
    for device, counts in (("d2", (10, 820, 20_000)), ("d3", (21_000, 0, 0))):
        names = ("chunk_bytes", "patch_bytes", "saved_bytes")
        fleet_rows.report(
            making.database,
            device,
            serving_digest=making.digests["2"],
            **dict(zip(names, counts, strict=True)),
        )
    assert making.patches.transfers(making.digests["2"]) == (2, 21_010, 820, 20_000)
    assert making.patches.transfers(making.digests["1"]) == (0, 0, 0, 0)
