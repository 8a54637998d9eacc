"""From retained files and an envelope to an admitted assignment, with real keys and real tasks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.deployment import collection
from firmware_bundles.errors import MessageTooLarge
from firmware_bundles.wire import topics
from support.owners import NOW, Owners
from support.verifying import NONCE, Device

DAY_S = 86400.0


@pytest.fixture
def owners() -> Owners:
    """A repository with two releases."""
    owners = Owners()
    owners.publish("1", b'{"example":1}')
    owners.publish("2", b'{"example":2}')
    return owners


def test_an_assignment_is_admitted_and_its_time_and_versions_are_kept(
    tmp_path: Path, owners: Owners
) -> None:
    """Floors are on disk before anything is used."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        device.publish(owners.seal())
        envelope = owners.assignment(owners.order("1", generation=5), nonce=NONCE)
        assert await device.verdict(envelope) == "admitted"
        assert [order.generation for order in device.admitted[0].orders] == [5]
        assert device.state.floors()["digits"].version == 3
        assert device.state.time_floor() == NOW
        changing = ("timestamp.json", "director/keys.json")
        assert device.subscribed == {topics.repository_file(name) for name in changing}
        await device.close()

    asyncio.run(run())


def test_what_the_owners_or_the_director_did_not_say_is_refused(
    tmp_path: Path, owners: Owners
) -> None:
    """Each by its own code; nothing is handed on."""
    stranger = Owners(seed=5000)
    stranger.publish("1", b'{"example":1}')
    old = owners.order("1", generation=3)
    owners.publish("3", b'{"example":3}', min_release=2)
    new = owners.order("3", generation=9)
    refused = {
        "trust.signature_invalid": stranger.assignment(new),
        "trust.assignment_replayed": owners.assignment(owners.order("3", generation=4)),
        "trust.release_below_floor": owners.assignment(owners.order("1", generation=9)),
        "trust.assignment_foreign": owners.assignment(new, device="dev-2"),
        "wire.malformed": b"\xff{",
    }

    async def run() -> None:
        device = Device(tmp_path, owners)
        device.generations = {"digits": 5}
        device.publish(owners.seal())
        found = {code: await device.verdict(envelope) for code, envelope in refused.items()}
        assert found == {code: code for code in refused}
        assert await device.verdict(owners.assignment(old)) == "trust.assignment_replayed"
        assert device.admitted == []
        assert await device.verdict(owners.assignment(new)) == "admitted"
        await device.close()

    asyncio.run(run())


def test_a_repository_signed_by_others_is_refused(tmp_path: Path, owners: Owners) -> None:
    """Whoever took the broker can say what he wants."""
    stranger = Owners(seed=5000)
    stranger.publish("1", b'{"example":1}')

    async def run() -> None:
        device = Device(tmp_path, owners)
        device.publish(stranger.seal())
        envelope = stranger.assignment(stranger.order("1"))
        assert await device.verdict(envelope) == "trust.signature_invalid"
        assert device.state.floors() == {}
        await device.close()

    asyncio.run(run())


def test_files_that_are_still_on_their_way_are_waited_for(tmp_path: Path, owners: Owners) -> None:
    """The envelope may well be faster than the repository: no false alarm."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        device.publish(owners.seal())
        assert await device.verdict(owners.assignment(owners.order("1"))) == "admitted"
        owners.publish("3", b'{"example":3}')
        files = owners.seal()
        device.publish(files, hint=False)  # the new timestamp is there, the rest is not
        asyncio.get_running_loop().call_later(1.0, device.publish, files)
        envelope = owners.assignment(owners.order("3", generation=2))
        assert await device.verdict(envelope) == "admitted"
        assert device.detected == []
        await device.close()

    asyncio.run(run())


def test_an_older_repository_is_refused_even_with_an_empty_cache(
    tmp_path: Path, owners: Owners
) -> None:
    """The device's own floors stand beside the cache, which a power cut may have emptied."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        old = owners.seal()
        owners.publish("3", b'{"example":3}')
        device.publish(owners.seal())
        assert await device.verdict(owners.assignment(owners.order("3"))) == "admitted"
        for file in sorted((tmp_path / "trust").rglob("*"), reverse=True):
            if not file.is_dir():
                file.unlink()
        device.publish(old)
        envelope = owners.assignment(owners.order("1", generation=7))
        assert await device.verdict(envelope) == "trust.rollback"
        assert len(device.admitted) == 1
        await device.close()

    asyncio.run(run())


@pytest.mark.parametrize("own", [0.0, NOW - 30 * DAY_S, NOW + 10_000 * DAY_S])
def test_an_answer_tells_the_time_to_a_wrong_clock(
    tmp_path: Path, owners: Owners, own: float
) -> None:
    """At 1970, a month late or decades ahead: the answer to a nonce counts, and so does a push."""

    async def run() -> None:
        device = Device(tmp_path, owners, Clock(source=lambda: own))
        device.publish(owners.seal())
        envelope = owners.assignment(owners.order("1"), nonce=NONCE)
        assert await device.verdict(envelope) == "admitted"
        assert device.state.time_floor() == NOW
        push = owners.assignment(owners.order("2", generation=2))
        assert await device.verdict(push) == "admitted"
        await device.close()

    asyncio.run(run())


def test_a_clock_at_1970_does_not_disable_expiry(tmp_path: Path, owners: Owners) -> None:
    """The answer's own time shows that what it rests on is over."""

    async def run() -> None:
        device = Device(tmp_path, owners, Clock(source=lambda: 0.0))
        device.publish(owners.seal())
        owners.now += 10 * DAY_S
        envelope = owners.assignment(owners.order("1"), nonce=NONCE)
        assert await device.verdict(envelope) == "trust.expired"
        assert device.state.time_floor() == 0.0
        await device.close()

    asyncio.run(run())


def test_no_answer_turns_a_clock_back_a_little(tmp_path: Path, owners: Owners) -> None:
    """A stolen director key must not keep an expired repository alive."""

    async def run() -> None:
        device = Device(tmp_path, owners, Clock(source=lambda: NOW + 10 * DAY_S))
        device.publish(owners.seal())
        envelope = owners.assignment(owners.order("1"), nonce=NONCE)
        assert await device.verdict(envelope) == "trust.expired"
        await device.close()

    asyncio.run(run())


def test_owners_recover_a_device_from_a_fast_forward(tmp_path: Path, owners: Owners) -> None:
    """New online keys in root let timestamp and snapshot begin again."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        owners.version = 2**30
        device.publish(owners.seal())
        assert await device.verdict(owners.assignment(owners.order("1"))) == "admitted"
        owners.version = 0
        owners.rotate("snapshot", "timestamp")
        device.publish(owners.seal())
        second = owners.assignment(owners.order("2", generation=2))
        assert await device.verdict(second) == "admitted"
        assert device.state.floors()["timestamp"].version == 1
        assert device.state.floors()["root"].version == 2
        await device.close()

    asyncio.run(run())


def test_a_lost_cache_is_filled_again_from_the_first_root(tmp_path: Path, owners: Owners) -> None:
    """The device asks for every root, not only for the newest."""
    for name in ("timestamp", "root-1", "root-3"):
        owners.rotate(name)

    async def run() -> None:
        device = Device(tmp_path, owners)
        device.publish(owners.seal())
        assert await device.verdict(owners.assignment(owners.order("1"))) == "admitted"
        for file in (tmp_path / "trust").rglob("*"):
            if not file.is_dir():
                file.unlink()
        second = owners.assignment(owners.order("2", generation=2))
        device.collection.connection_changed(is_up=False)
        device.publish(owners.seal())
        assert await device.verdict(second) == "admitted"
        await device.close()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["1.targets.json", "3.digits.json"])
def test_what_was_refused_is_asked_for_again(tmp_path: Path, owners: Owners, name: str) -> None:
    """Once a broker says the truth again, about all or one family, no new connection is needed."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        files = owners.seal()
        device.publish({**files, name: b"{}"})
        envelope = owners.assignment(owners.order("1"))
        assert await device.verdict(envelope) == "trust.digest_mismatch"
        assert device.admitted == []
        device.retained[topics.repository_file(name)] = files[name]
        await device.admission(envelope)
        await device.close()

    asyncio.run(run())


def test_without_the_repository_the_own_cache_is_verified_again(
    tmp_path: Path, owners: Owners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that lost what it retained does not stop an order for a known release."""
    monkeypatch.setattr(collection, "WAIT_S_MAX", 0.05)

    async def run() -> None:
        device = Device(tmp_path, owners)
        envelope = owners.assignment(owners.order("1"))
        assert await device.verdict(envelope) == "transfer.metadata_missing"
        device.publish(owners.seal())
        assert await device.verdict(envelope) == "admitted"
        device.publish({})
        second = owners.assignment(owners.order("2", generation=2))
        assert await device.verdict(second) == "admitted"
        (tmp_path / "trust" / "director-keys").write_bytes(b"{}")
        assert await device.verdict(second) == "trust.digest_mismatch"
        await device.close()

    asyncio.run(run())


def test_what_is_too_large_is_not_even_kept(tmp_path: Path, owners: Owners) -> None:
    """Sizes come first."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        device.publish(owners.seal())
        with pytest.raises(MessageTooLarge):
            device.verification.take_envelope(b"x" * 100_000)
        with pytest.raises(MessageTooLarge):
            device.collection.take_file("timestamp.json", b"x" * 100_000)
        await device.close()

    asyncio.run(run())
