"""Repository files that are larger than one message: chunks behind an index that nobody signs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from firmware_bundles import limits
from firmware_bundles.chunks import digest_of
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import FileIndex
from support.owners import Owners
from support.verifying import Device

Damage = Callable[[FileIndex], object]


@pytest.fixture(scope="module")
def owners() -> Owners:
    """A family with so many releases that its role needs several messages."""
    owners = Owners()
    owners.publish_many(1000)
    assert len(owners.roles["digits"]) > 2 * limits.REPOSITORY_FILE_BYTES_MAX
    return owners


def _role_topic(owners: Owners) -> str:
    return topics.repository_file("2.digits.json")


def test_a_large_role_comes_in_chunks_and_is_verified_whole(tmp_path: Path, owners: Owners) -> None:
    """An order for a release that it lists is admitted, and the chunks are not kept."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        device.publish(owners.seal())
        assert len(device.retained[_role_topic(owners)]) < 1024
        order = owners.order("1000")
        assert await device.verdict(owners.assignment(order)) == "admitted"
        assert list((tmp_path / "chunks").iterdir()) == []
        assert not any(topics.parse_chunk(topic) for topic in device.subscribed)
        await device.close()

    asyncio.run(run())


def _too_long(index: FileIndex) -> object:
    count = limits.TARGETS_BYTES_MAX // limits.CHUNK_BYTES_MAX + 1
    return {
        "schema": "1.0",
        "length": limits.TARGETS_BYTES_MAX + 1,
        "chunks": [digest_of(bytes([place])) for place in range(count)],
    }


def _endless(index: FileIndex) -> object:
    return {"schema": "1.0", "length": index.length, "chunks": list(index.chunks) * 100}


def _more_than_promised(index: FileIndex) -> object:
    return msgspec.structs.replace(index, chunks=(*index.chunks, index.chunks[0]))


def _one_byte_less(index: FileIndex) -> object:
    return msgspec.structs.replace(index, length=index.length - 1)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_too_long, "wire.malformed"),
        (_endless, "wire.too_large"),
        (_more_than_promised, "wire.malformed"),
        (_one_byte_less, "wire.malformed"),
        (lambda _: {"schema": "1.0"}, "wire.malformed"),
        (lambda _: {"schema": "9.0"}, "wire.version_unsupported"),
    ],
)
def test_a_false_index_delays_and_is_told(
    tmp_path: Path, owners: Owners, damage: Damage, code: str
) -> None:
    """Nothing that it names is joined; the true one is taken when it comes."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        files = owners.seal()
        device.publish(files, hint=False)
        topic = _role_topic(owners)
        true = device.retained[topic]
        false = msgspec.json.encode(damage(codec.decode(FileIndex, true)))
        device.publish(files)
        device.retained[topic] = false
        await device.detection()
        assert device.detected[0].code == code
        assert "2.digits.json" not in device.collection.files
        device.deliver(topic, true)
        order = owners.order("1")
        assert await device.verdict(owners.assignment(order)) == "admitted"
        await device.close()

    asyncio.run(run())


def test_chunks_with_other_bytes_are_never_joined(tmp_path: Path, owners: Owners) -> None:
    """Each is held against its name; what is joined all the same is held against its signature."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        files = owners.seal()
        device.publish(files, hint=False)
        chunk = next(topic for topic in device.retained if topics.parse_chunk(topic))
        files_role = files["2.digits.json"]
        device.publish(files)
        device.retained[chunk] = device.retained[chunk][:-1] + b"!"
        await device.detection()
        assert device.detected[0].code == "transfer.chunk_corrupt"
        assert "2.digits.json" not in device.collection.files
        forged = files_role.replace(b"digits/1000/", b"digits/1001/", 1)
        device.publish({**files, "2.digits.json": forged})
        order = owners.order("1000")
        assert await device.verdict(owners.assignment(order)) != "admitted"
        await device.close()

    asyncio.run(run())


def test_a_hostile_repository_cannot_fill_the_memory(tmp_path: Path, owners: Owners) -> None:
    """All files together are bounded, whatever their indexes promise."""

    async def run() -> None:
        device = Device(tmp_path, owners)
        huge = bytes(limits.TARGETS_BYTES_MAX - 1)
        device.publish({f"{number}.huge-{number}.json": huge for number in range(1, 9)})
        await device.detection()
        assert device.detected[0].code == "wire.too_large"
        held = sum(map(len, device.collection.files.values()))
        assert held <= limits.REPOSITORY_BYTES_MAX
        await device.close()

    asyncio.run(run())
