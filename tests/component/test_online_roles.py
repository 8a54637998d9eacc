"""What the control plane signs by itself: at each start, and when its keys are lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_bundles.errors import SignatureInvalid
from firmware_bundles.wire import topics
from support.release_service import ReleaseService

NOW = 1_800_000_000.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ReleaseService]:
    """A control plane that has announced a release."""
    service = ReleaseService(tmp_path, NOW)
    service.begin(releases=1)
    service.publisher.announce()
    yield service
    service.database.close()


@pytest.fixture
def again(service: ReleaseService, tmp_path: Path) -> Iterator[ReleaseService]:
    """The same a minute later, started anew, and a broker that remembers."""
    again = ReleaseService(tmp_path, NOW + 60)
    again.retained.messages.update(service.retained.messages)
    yield again
    again.database.close()


def test_lost_online_keys_do_not_silence_the_repository(
    service: ReleaseService, tmp_path: Path
) -> None:
    """What was signed before is said to a broker that lost it; the owners are told by the log."""
    for name in ("snapshot", "timestamp", "director"):
        (tmp_path / "keys" / f"{name}.pem").unlink()
    again = ReleaseService(tmp_path, NOW + 60)
    announcer = again.announcer()
    with pytest.raises(SignatureInvalid):
        announcer.tick()
    found = again.as_device(tmp_path / "cache").versions
    assert found["snapshot"] == service.as_device(tmp_path / "other").versions["snapshot"]
    announcer.tick()
    again.database.close()


def test_each_start_signs_anew_and_clears_what_was_retained(
    service: ReleaseService, again: ReleaseService, tmp_path: Path
) -> None:
    """Newer than before, whatever was lost; the former snapshot does not stay at the broker."""
    former = service.as_device(tmp_path / "cache").versions
    announcer = again.announcer()
    announcer.tick()
    assert again.as_device(tmp_path / "cache").versions["snapshot"] == int(NOW + 60)
    publish_count = len(again.retained.topics)
    announcer.tick()
    assert len(again.retained.topics) == publish_count
    again.publisher.announce_changes()
    left = topics.repository_file(f"{former['snapshot']}.snapshot.json")
    assert left not in again.retained.messages
