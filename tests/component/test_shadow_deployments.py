"""Deployments whose order asks for a shadow, over a real disk and database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from agent.inference import control
from firmware_bundles.errors import SelfTestFailed
from firmware_bundles.wire.messages import DeploymentState, Shadowing
from support.deployments import V1, V2, Device, deployed

S = DeploymentState


def _shadows(device: Device) -> list[tuple[str, bool]]:
    """Which slots were mirrored to (or not any more), in order."""
    asked = (each for each in device.worker.asked if isinstance(each, control.Shadow))
    return [(each.slot, each.share > 0) for each in asked]


def test_a_candidate_sees_mirrored_input_and_then_the_previous_model_does(tmp_path: Path) -> None:
    """Where the order says so; a first model has nothing to be compared with."""

    async def run() -> None:
        device = await deployed(tmp_path)
        shadow = Shadowing(share=0.5, rows_min=100)
        device.updater.offer(V1.order(1, shadow=shadow))
        assert (await device.ended(1)).state is S.COMMITTED
        assert _shadows(device) == []
        device.updater.offer(V2.order(2, shadow=shadow))
        record = await device.ended(2)
        assert record.state is S.COMMITTED
        assert record.previous is not None
        seen = _shadows(device)
        assert seen[0] == (record.slot, True)
        assert (record.previous, True) in seen
        assert not seen[-1][1]

    asyncio.run(run())


@pytest.mark.parametrize("way", ["dies", "is_cancelled", "ends_by_time"])
def test_the_end_of_shadowing(tmp_path: Path, way: str) -> None:
    """A candidate that dies has failed; a device without traffic goes on when the time is over."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.worker.shadow_grows_by = 0
        duration_s = 0.2 if way == "ends_by_time" else 60.0
        shadow = Shadowing(share=1.0, rows_min=10, duration_s=duration_s)
        device.updater.offer(V2.order(2, shadow=shadow))
        await device.reaches(S.SHADOWING)
        await device.worker.is_mirrored.wait()
        if way == "dies":
            assert device.worker.shadow is not None
            device.worker.shadow = msgspec.structs.replace(device.worker.shadow, reason="SIGSEGV")
        if way == "is_cancelled":
            device.updater.offer(V1.order(3))
        record = await device.ended(3 if way == "is_cancelled" else 2)
        if way == "dies":
            assert record.fault is not None
            assert (record.state, record.fault.code) == (S.FAILED, SelfTestFailed.code)
            assert device.serving() == "v1"
        else:
            assert record.state is S.COMMITTED
        assert device.worker.shadow is None

    asyncio.run(run())


@pytest.mark.parametrize("is_first", [True, False])
def test_a_candidate_that_is_held_serves_only_by_a_newer_order(
    tmp_path: Path, *, is_first: bool
) -> None:
    """However many inputs it saw, also where nothing serves that it could be compared with."""

    async def run() -> None:
        device = await deployed(tmp_path) if is_first else await deployed(tmp_path, V1)
        shadow = Shadowing(share=1.0, rows_min=1, duration_s=0.01, is_held=True)
        device.updater.offer(V2.order(2, shadow=shadow))
        await device.reaches(S.SHADOWING)
        if not is_first:
            await device.worker.is_mirrored.wait()
        await asyncio.sleep(0.1)
        assert device.updater.records["digits"].state is S.SHADOWING
        device.updater.offer(V2.order(3))
        assert (await device.ended(3)).state is S.COMMITTED
        assert device.serving() == "v2"
        assert device.worker.shadow is None

    asyncio.run(run())
