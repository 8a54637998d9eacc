"""Committed models that take the worker down, over a real disk and database."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.deployment.oversight import Oversight
from firmware_bundles.wire.messages import DeploymentState
from support.deployments import FAMILY, V1, V2, deployed

S = DeploymentState


def test_a_committed_model_that_dies_at_different_inputs_gives_way_to_the_good_one(
    tmp_path: Path,
) -> None:
    """Once: where there is nothing good to go back to, it serves on; the reason is told."""

    async def run() -> None:
        device = await deployed(tmp_path, V1, V2)
        oversight = Oversight(device.worker, device.updater, device.detected.append)
        device.worker.killers = 2
        await oversight.look()
        assert device.serving() == "v2"
        device.worker.killers = 3
        await oversight.look()
        assert device.serving() == "v1"
        record = device.updater.records[FAMILY]
        assert record.fault is not None
        assert (record.state, record.fault.code) == (S.ROLLED_BACK, "device.model_crashing")
        for _ in range(2):
            await oversight.look()
        assert device.serving() == "v1"
        codes = [each.code for each in device.detected]
        assert codes == ["device.model_crashing", "device.model_crashing", "device.slot_broken"]

    asyncio.run(run())
