"""A disk that is full, read-only or not ours, at every write: the good model stays."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.deployment import lifecycle, slots
from firmware_bundles.errors import DeviceError, StateDamaged
from firmware_bundles.wire.messages import DeploymentState
from support import small_disk
from support.deployments import FAMILY, V1, V2, Device, deployed
from support.power import Power

S = DeploymentState
_CODES = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)  # full, broken, read-only, not ours
_ROOMS = range(0, 900_000, 4096)


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A file system of two megabytes."""
    with small_disk.mounted(2 * 2**20) as folder:
        yield folder


def prepare(folder: Path) -> None:
    """A device that serves v1, at rest."""

    async def make() -> None:
        device = await deployed(folder, V1)
        await device.updater.stop()
        device.state.close()

    asyncio.run(make())


async def update(folder: Path, *, full: bool) -> lifecycle.Record | None:
    """Try v2; with a full disk wait only as long as something happens."""
    try:
        device = Device(folder)
    except StateDamaged:
        raise  # a full disk is no damage: the state would be thrown away
    except DeviceError:
        return None  # the core tries again; the worker serves meanwhile
    device.start()
    device.updater.offer(V2.order(2))
    record = None
    try:
        async with asyncio.timeout(1.5 if full else 10):
            record = await device.ended(2)
    except TimeoutError:
        assert full
    await device.crash()
    return record


def require_whole(folder: Path, record: lifecycle.Record | None) -> str:
    """A whole model serves, and a good one where the deployment has ended; returns its version."""
    serving = slots.serving(folder / "slots", FAMILY)
    assert serving is not None
    assert record is None or slots.is_good(serving)
    return slots.read(serving).version


@pytest.mark.needs("mount")
def test_a_full_disk_fails_an_update_cleanly_and_room_lets_it_pass(disk: Path) -> None:
    """With any room left: v1 serves or v2 was committed; with room again the update goes on."""
    folder = disk / "device"
    folder.mkdir()
    prepare(folder)
    template = disk.parent / f"{disk.name}-template"
    shutil.copytree(folder, template)
    try:
        seen = set()
        for leave in _ROOMS[:: max(1, len(_ROOMS) // 18)]:
            shutil.rmtree(folder)
            shutil.copytree(template, folder)
            filler = small_disk.fill(disk, leave=leave)
            record = asyncio.run(update(folder, full=True))
            version = require_whole(folder, record)
            if record is not None:
                seen.add(record.state)
                assert (version == "v2") is (record.state is S.COMMITTED)
                assert (record.fault is None) is (record.state is S.COMMITTED)
            filler.unlink()
            record = asyncio.run(_again(folder))
            assert record.state is S.COMMITTED
            assert require_whole(folder, record) == "v2"
        assert {S.FAILED, S.COMMITTED} <= seen
    finally:
        shutil.rmtree(template)


async def _again(folder: Path) -> lifecycle.Record:
    """With room again: what was open ends; what failed comes again under a newer generation."""
    device = Device(folder)
    device.start()
    device.updater.offer(V2.order(3))
    record = await device.ended(3)
    await device.crash()
    return record


class _Refusing(Power):
    """A disk that refuses one operation, or every one from there on, with an error."""

    def __init__(self, root: Path, at: int, code: int, *, once: bool) -> None:
        super().__init__(root)
        self._at = at
        self._code = code
        self._once = once

    def _tick(self) -> None:
        with self._turn:
            number, self.operations = self.operations, self.operations + 1
        if number == self._at or (number > self._at and not self._once):
            raise OSError(self._code, os.strerror(self._code))

    def _tick_database(self) -> None:
        try:
            self._tick()
        except OSError as error:
            refused = sqlite3.OperationalError("database or disk is full")
            refused.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise refused from error


def test_a_refusal_at_any_write_leaves_a_whole_model(
    tmp_path: Path,
    is_long_run: bool,  # noqa: FBT001 - a fixture
) -> None:
    """Each operation in turn is refused once: the deployment ends well, or with its reason."""
    template = tmp_path / "template"
    template.mkdir()
    prepare(template)
    counting = Power(tmp_path / "count")
    shutil.copytree(template, counting.root)
    with counting.supplied():
        assert asyncio.run(update(counting.root, full=False)) is not None
    step = 1 if is_long_run else 12
    first = 0 if is_long_run else os.getpid() % step
    for at in range(first, counting.operations, step):
        code = _CODES[at // step % len(_CODES)]
        folder = tmp_path / f"at-{at}"
        shutil.copytree(template, folder)
        disk = _Refusing(folder, at, code, once=True)
        with disk.supplied():
            record = asyncio.run(update(folder, full=True))
        version = require_whole(folder, record)
        if record is not None:
            assert (version == "v2") is (record.state is S.COMMITTED)
            assert (record.fault is None) is (record.state is S.COMMITTED)
        assert asyncio.run(_again(folder)).state is S.COMMITTED
        shutil.rmtree(folder)
