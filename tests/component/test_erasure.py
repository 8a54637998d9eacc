"""Erasing what a retired device holds: through failures and power cuts, over a real disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agent.clock import Clock
from agent.deployment import erasure, slots
from agent.deployment.retirement import Phase, Retirement
from agent.inference import control
from agent.inference.control import Erase, Erasing
from agent.store.state import State
from firmware_bundles.errors import WorkerUnavailable
from firmware_bundles.wire.messages import DeploymentState
from support.deployments import FAMILY, V1, V2, Device, deployed

if TYPE_CHECKING:
    from pathlib import Path


class PowerCut(BaseException):
    """Ends everything at once."""


class Worker:
    """Stands for the worker; each of its answers may be the last thing that happens."""

    def __init__(self, device: Device, cut_at: int = 0) -> None:
        self._device = device
        self._left = cut_at
        self.segments = 3
        self.failures = 2

    async def ask(self, request: control.Request, timeout_s: float) -> control.Response:
        """Answer, fail at first, or have the power cut."""
        self._count()
        if not isinstance(request, Erase):
            return await self._device.worker.ask(request, timeout_s)
        if self.failures:
            self.failures -= 1
            raise WorkerUnavailable("busy")
        answer = Erasing(incarnation=self._incarnation(), segments=self.segments)
        self.segments = 0
        self._device.worker.incarnation += 1
        return answer

    async def status(self) -> control.StatusAnswer:
        """Say who it is."""
        self._count()
        return control.StatusAnswer(incarnation=self._incarnation(), families={})

    def deaths(self) -> int:
        """None."""
        return 0

    def _incarnation(self) -> str:
        return f"{self._device.worker.incarnation:016x}"

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise PowerCut


async def retired(folder: Path) -> Device:
    """A device with two models whose retirement is on disk, and one deployment under way."""
    device = await deployed(folder, V1, V2)
    device.line.is_silent = True
    device.updater.offer(V1.order(7))
    await device.reaches(DeploymentState.FETCHING)
    device.state.save_retirement(Retirement(9, Phase.ERASING))
    await device.updater.end()
    (folder / "chunks").mkdir(exist_ok=True)
    (folder / "chunks" / "left").write_bytes(b"x")
    return device


@pytest.mark.parametrize("cut_at", range(10))
def test_an_erasure_that_was_cut_off_goes_on_to_its_end(
    tmp_path: Path, cut_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the power went: nothing is left, the loss is counted in full, generations stay."""
    monkeypatch.setattr(erasure, "_RETRY_S_MIN", 0.001)

    async def go() -> None:
        device = await retired(tmp_path)
        worker = Worker(device, cut_at)
        try:
            await erasure.erase(tmp_path, device.state, worker, Clock())
        except PowerCut:
            device.state.close()
            device.state = State.open(tmp_path / "state.db")
            await erasure.erase(tmp_path, device.state, worker, Clock())
        found = device.state.retirement()
        assert (found.generation, found.phase, found.segments) == (9, Phase.ERASED, 3)
        assert found.finished > 0
        assert slots.families(tmp_path / "slots") == []
        assert not (tmp_path / "chunks").exists()
        record = device.state.records()[FAMILY]
        assert (record.generation, record.state) == (7, DeploymentState.FAILED)
        device.state.close()

    asyncio.run(go())


def test_a_retirement_on_disk_never_goes_back(tmp_path: Path) -> None:
    """A write that is late does not bring an older generation back."""

    async def go() -> None:
        device = await deployed(tmp_path, V1)
        device.state.save_retirement(Retirement(9, Phase.ERASED, 2, 5.0))
        device.state.save_retirement(Retirement(8, Phase.ERASING))
        assert device.state.retirement() == Retirement(9, Phase.ERASED, 2, 5.0)
        await device.crash()

    asyncio.run(go())
