"""Two families of one device, updating at once: neither waits for, nor harms, the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from agent.deployment import slots
from firmware_bundles.errors import SelfTestFailed
from firmware_bundles.wire.messages import Assignment, DeploymentState
from support.deployments import FAMILY, V1, V2, Device, PointerWorker, Release, WorkerOfFamilies

S = DeploymentState
OTHER = "faces"
OTHER_V1, OTHER_V2 = Release("v1", OTHER), Release("v2", OTHER)


class Pair(Device):
    """A device with two families."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.other = PointerWorker(self.root, OTHER)
        self.workers = WorkerOfFamilies(self.worker, self.other)
        self.line.retained |= OTHER_V1.chunks

    def fetch_the_rest(self) -> None:
        """Bring the other family's second release to the broker, and let its chunks be missed."""
        self.line.retained |= OTHER_V2.chunks
        self.downloads.look(asyncio.get_running_loop().time() + 1_000)

    def versions(self) -> dict[str, str]:
        """What each pointer names."""
        found = ((family, slots.serving(self.root, family)) for family in (FAMILY, OTHER))
        return {family: slots.read(slot).version for family, slot in found if slot}


def both(first: Release, second: Release, generation: int) -> Assignment:
    """One assignment with an order for each family."""
    orders = (*first.order(generation).orders, *second.order(generation).orders)
    return msgspec.structs.replace(first.order(generation), orders=orders)


async def updating(folder: Path) -> Pair:
    """Both run v1 and are to take v2; the other family's chunks are not there yet."""
    device = Pair(folder)
    device.start()
    device.updater.offer(both(V1, OTHER_V1, 1))
    for family in (FAMILY, OTHER):
        assert (await device.ended(1, family)).state is S.COMMITTED
    device.updater.offer(both(V2, OTHER_V2, 2))
    return device


def test_a_family_that_fails_leaves_the_other_alone(tmp_path: Path) -> None:
    """One commits while the other still fetches, which then fails and serves what it did."""

    async def run() -> None:
        device = await updating(tmp_path)
        device.other.failing_self_test = {"v2"}
        assert (await device.ended(2)).state is S.COMMITTED
        assert device.updater.records[OTHER].state is S.FETCHING
        device.fetch_the_rest()
        record = await device.ended(2, OTHER)
        assert record.state is S.FAILED
        assert record.fault is not None
        assert record.fault.code == SelfTestFailed.code
        assert device.versions() == {FAMILY: "v2", OTHER: "v1"}
        assert list((tmp_path / "chunks").iterdir()) == []
        await device.crash()

    asyncio.run(run())


def test_both_families_go_on_after_a_stop(tmp_path: Path) -> None:
    """Each where it was."""

    async def run() -> None:
        device = await updating(tmp_path)
        await device.ended(2)
        await device.crash()
        again = Pair(tmp_path)
        again.line.retained |= OTHER_V2.chunks
        again.start()
        assert (await again.ended(2, OTHER)).state is S.COMMITTED
        assert again.updater.generations() == {FAMILY: 2, OTHER: 2}
        assert again.versions() == {FAMILY: "v2", OTHER: "v2"}
        await again.crash()

    asyncio.run(run())
