"""The power goes while a task writes the trust cache: the next refresh makes it whole."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

import pytest

from firmware_bundles.trust import verifier
from support.owners import MANIFEST, NOW, Owners
from support.power import Cut, Power


@pytest.fixture
def owners() -> Owners:
    """A repository with one release."""
    made = Owners()
    made.publish("1")
    return made


def refreshed(folder: Path, owners: Owners, files: dict[str, bytes]) -> verifier.Repository:
    """Verify files as the task does, with a cache in the folder."""
    return verifier.refresh(folder / "trust", owners.root, files, NOW)


@pytest.mark.parametrize("loses", [False, True], ids=["keeps", "loses-unsynced"])
def test_a_cut_at_any_write_of_the_trust_cache_is_mended_by_the_next_refresh(
    tmp_path: Path,
    owners: Owners,
    loses: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Each operation in turn, a key's rotation among them; nothing older is taken afterwards."""
    before = owners.seal()
    owners.publish("2", MANIFEST + b" ")
    owners.rotate("timestamp")
    after = owners.seal()
    for at in itertools.count():
        folder = tmp_path / f"{at}"
        folder.mkdir()
        marks = refreshed(folder, owners, before).marks
        power = Power(folder, cut_at=at, loses=loses)
        with power.supplied(), suppress(Cut):
            refreshed(folder, owners, after)
        found = refreshed(folder, owners, after)
        assert all(found.marks[name].version >= mark.version for name, mark in marks.items())
        assert found.release("digits/2/manifest.json").number == 2
        if not power.is_off:
            break
    assert at > 10
