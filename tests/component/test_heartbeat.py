"""The worker's heartbeat stops while a model does not answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from agent.inference.breadcrumbs import Act
from agent.inference.guarded import Guard
from agent.inference.heartbeat import Heartbeat
from agent.inference.registry import Registry
from agent.store import buffer
from agent.store.buffer import Buffer
from agent.telemetry.recorder import Pace, Recorder
from support.bundles import Sample

WATCHDOG_S = 0.3


def _silent(*_: object, **__: object) -> None:
    """Nobody listens."""


def _serving(state_dir: Path) -> tuple[Registry, Guard]:
    Sample("v1").put(state_dir, "A")
    spool = state_dir / "spool"
    spool.mkdir()
    buffer.ensure(spool / "buffer.db")
    store = Buffer(spool / "buffer.db")
    recorder = Recorder(spool, store, "0" * 16, Pace(), _silent)
    store.close()
    guard = Guard(spool, _silent)
    registry = Registry(state_dir / "slots", recorder, guard, _silent)
    registry.start()
    return registry, guard


def test_a_model_that_answers_wrong_stops_the_heartbeat(tmp_path: Path) -> None:
    """Each model that had nothing to answer is asked a golden vector."""

    async def run() -> None:
        registry, guard = _serving(tmp_path)
        told = asyncio.Event()

        def on_event(*_: object, **__: object) -> None:
            told.set()

        heartbeat = Heartbeat(registry, guard.crumbs, on_event, WATCHDOG_S)
        running = asyncio.create_task(heartbeat.run())
        await asyncio.sleep(2 * WATCHDOG_S)
        assert heartbeat.fault() == ""
        model = registry.serving["digits"].model
        wanted = model._sample[1]
        wanted[0] = np.roll(wanted[0], 1)
        async with asyncio.timeout(30):
            await told.wait()
        assert "digits answers wrong: golden vector 0" in heartbeat.fault()
        running.cancel()

    asyncio.run(run())


def test_an_inference_that_does_not_end_stops_the_heartbeat(tmp_path: Path) -> None:
    """In whichever thread or interpreter it is; loading may take ten times as long."""

    async def run() -> None:
        registry, guard = _serving(tmp_path)
        heartbeat = Heartbeat(registry, guard.crumbs, _silent, WATCHDOG_S)
        lane, give_back = guard.crumbs.lane("digits", "a" * 64)
        lane.begin(Act.SWAPPING)
        await asyncio.sleep(1.5 * WATCHDOG_S)
        assert heartbeat.fault() == ""
        lane.begin(Act.INVOKING)
        await asyncio.sleep(1.5 * WATCHDOG_S)
        assert "digits is at one input" in heartbeat.fault()
        guard.give_up("a" * 64, guard.lanes() - {lane})
        assert heartbeat.fault() == ""
        lane.is_given_up = False
        assert heartbeat.fault() != ""
        give_back()
        assert heartbeat.fault() == ""

    asyncio.run(run())
