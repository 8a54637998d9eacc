"""What a draft knows of the fleet and the release when it is checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from control_plane.rollouts.draft import Draft, draft
from firmware_bundles import manifest
from firmware_bundles.errors import ChunkMissing
from firmware_bundles.sketches.codec import encode_baseline
from support import deployments
from support.rollout_service import RolloutService
from support.watch_world import FACTS

FILE = """
family: digits
release: "2"
cohort: all
phases: [{share: 1.0, soak_s: 600}]
gates: {drift: {margin: 0.3}, shadow_pairs: {}}
policy: {shadow: {share: 1.0}}
"""


class _Bundles:
    """One release, with a baseline that repeats after a day; its files may be gone."""

    def __init__(self, service: RolloutService, *, is_whole: bool = True) -> None:
        self.find = service.find
        self._is_whole = is_whole

    def manifest(self, digest: str) -> manifest.Manifest:
        described = manifest.parse(deployments.Release(digest).manifest)
        return msgspec.structs.replace(described, baseline="baseline.bin")

    def file(self, digest: str, name: str) -> bytes:
        if not self._is_whole:
            raise ChunkMissing(f"{name} of {digest} is not here")
        return encode_baseline(msgspec.structs.replace(FACTS, cycle_s=86_400.0))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RolloutService]:
    """Eight devices that serve version 1."""
    made = RolloutService(tmp_path)
    yield made
    made.fleet.database.close()


def _draft(service: RolloutService, *, is_whole: bool = True) -> Draft:
    bundles = _Bundles(service, is_whole=is_whole)
    return draft(FILE, bundles, service.cohorts, now=1.0, by="anna", suffix="1")


def _codes(drafted: Draft) -> set[str]:
    return {note.code for note in drafted.notes}


def test_the_time_of_a_watch_is_read_from_the_releases_baseline(service: RolloutService) -> None:
    """Two days where what is normal repeats daily; a file that is gone is no reason to refuse."""
    (note,) = [each for each in _draft(service).notes if each.code == "gate.drift_unsure"]
    assert "172800 s, make a watch sure" in note.sentence
    assert "gate.drift_unsure" not in _codes(_draft(service, is_whole=False))


def test_devices_that_serve_the_family_are_counted(service: RolloutService) -> None:
    """Pairs are possible as long as one of them serves a model."""
    assert "gate.pairs_impossible" not in _codes(_draft(service))
    for device_id in service.fleet.devices:
        service.fleet.report(device_id, generation=0, state=None, serving=None)
    assert "gate.pairs_impossible" in _codes(_draft(service))
