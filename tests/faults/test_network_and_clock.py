"""Connections that break, brokers that forget, messages in any order, clocks that jump."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.deployment import lifecycle
from firmware_bundles.limits import CHUNK_WINDOW_DEFAULT
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import DeploymentState, Policy
from support.deployments import V1, V2, deployed
from support.field import NEXT, Agent, Director, field, wait_until

S = DeploymentState
OPEN = [state for state in S if state in lifecycle.TRANSITIONS and state is not S.ROLLING_BACK]
_POLICY = Policy(probation_s=0.2, self_test_s_max=15.0)
_SLOW_BYTES_PER_S = 400_000.0

pytestmark = [pytest.mark.timeout(300)]


class Scene:
    """One device that updates on and on."""

    def __init__(self, director: Director, agent: Agent) -> None:
        self.director = director
        self.agent = agent

    def begin(self, bytes_per_s: float = 0.0) -> int:
        """Order a version that neither slot holds, over a line of this speed."""
        proxy = self.agent.proxy
        proxy.asked.clear()
        proxy.delivered.clear()
        proxy.bytes_per_s = bytes_per_s
        self.before = self.agent.answers()
        # What was rolled back still lies in the other slot, and is not downloaded again.
        version = min(set(NEXT) - self.agent.held_versions())
        return self.director.order(self.agent.name, version, _POLICY).generation

    def downloads(self, count: int) -> None:
        """Wait until so many chunks are stored."""
        wait_until(lambda: len(self.agent.stored_chunks()) >= count, f"{count} chunks stored")

    def ends(self, generation: int) -> None:
        """The update is complete, and what it promises holds."""
        self.agent.proxy.bytes_per_s = 0.0
        wait_until(lambda: self.agent.has_ended(generation), f"{generation} has ended")
        record = self.agent.record()
        assert record is not None
        assert (record.state, record.generation) == (S.COMMITTED, generation)
        wait_until(lambda: not self.agent.broken_promises(self.before), "all promises hold")

    @property
    def excess(self) -> int:
        """Chunks that came more than once."""
        delivered = self.agent.proxy.delivered
        return sum(delivered.values()) - len(delivered)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A device that serves version 1."""
    with (
        tempfile.TemporaryDirectory(prefix="shoal-") as name,
        field(Path(name), 1) as (director, (agent,)),
    ):
        yield Scene(director, agent)


@pytest.mark.needs("mosquitto")
@pytest.mark.xdist_group("system")
def test_a_connection_cut_in_the_middle_of_chunks_costs_at_most_a_window(scene: Scene) -> None:
    """Throttled and cut three times: nothing that was stored is asked for again."""
    generation = scene.begin(_SLOW_BYTES_PER_S)
    for count in (2, 4, 6):
        scene.downloads(count)
        stored = scene.agent.stored_chunks()
        scene.agent.proxy.cut()
        time.sleep(0.1)
        scene.agent.proxy.asked.clear()
        scene.downloads(count + 1)
        assert not stored & set(scene.agent.proxy.asked)
        assert scene.agent.answers() == scene.before
    scene.ends(generation)
    assert scene.excess <= 3 * CHUNK_WINDOW_DEFAULT


@pytest.mark.needs("mosquitto")
@pytest.mark.xdist_group("system")
def test_a_broker_that_forgot_everything_only_delays(scene: Scene) -> None:
    """It comes back without retained messages; the device serves, waits, and goes on."""
    generation = scene.begin(_SLOW_BYTES_PER_S)
    scene.downloads(2)
    scene.director.stop_broker()
    assert scene.agent.answers() == scene.before
    scene.director.start_broker()
    time.sleep(0.5)
    assert not scene.agent.has_ended(generation)
    assert scene.agent.answers() == scene.before
    scene.director.retain()
    scene.ends(generation)


@pytest.mark.needs("mosquitto")
@pytest.mark.xdist_group("system")
def test_messages_that_come_twice_and_in_any_order_change_nothing(scene: Scene) -> None:
    """Assignments thrice, an old one after a new one, chunks unasked and shuffled."""
    scene.director.repeats = 3
    generation = scene.begin(_SLOW_BYTES_PER_S)
    scene.downloads(1)
    shuffled = list(scene.director.chunks.items()) * 2
    random.Random(7).shuffle(shuffled)
    for digest, data in shuffled:
        scene.director.say(topics.chunk(digest), data)
    old = scene.director.orders[scene.agent.name]
    scene.director.repeat_older(scene.agent.name, old)
    scene.ends(generation)
    scene.director.repeats = 1
    told = scene.agent.log.read_text()
    assert told.count(f"event=deployment-committed family=digits generation={generation} ") == 1


@pytest.mark.needs("mosquitto")
@pytest.mark.xdist_group("system")
def test_a_request_that_kills_the_worker_each_time_stops_nothing_else(scene: Scene) -> None:
    """A committed model stays; in probation the third death brings the former one back."""
    agent = scene.agent
    before = agent.answers()
    for _ in range(3):
        agent.kill("worker")  # in the middle of a request, as far as a client can tell
        assert agent.away_s() < 30
        assert agent.answers() == before
    record = agent.record()
    assert record is not None
    assert record.state is S.COMMITTED
    version = NEXT[before or "1"]
    policy = Policy(probation_s=60.0, self_test_s_max=15.0)
    order = scene.director.order(agent.name, version, policy)
    wait_until(lambda: agent.answers() == version, "the new version answers")
    while not agent.has_ended(order.generation):
        agent.kill("worker")
        agent.away_s()
        time.sleep(0.3)
    record = agent.record()
    assert record is not None
    assert record.fault is not None
    assert (record.state, record.fault.code) == (S.ROLLED_BACK, "device.probation_failed")
    assert "the worker died" in record.fault.message
    wait_until(lambda: not agent.broken_promises(before), "all promises hold")


@pytest.mark.parametrize("moment", [0.0, 4e9], ids=["1970", "2096"])
@pytest.mark.parametrize("state", OPEN)
def test_a_clock_that_jumps_in_any_state_ends_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: DeploymentState, moment: float
) -> None:
    """Time is measured by a clock that cannot jump; the other one only labels."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.crash_in = state
        device.updater.offer(V2.order(2))
        await device.crashed.wait()
        monkeypatch.setattr(time, "time", lambda: moment)
        assert (await device.ended(2)).state is S.COMMITTED
        assert device.serving() == "v2"
        await device.crash()

    asyncio.run(run())
