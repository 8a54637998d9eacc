"""The power goes at any operation of the real store and file layer, again and again.

After each cut the device is started anew over what the disk kept; every limit is low. However it
went: a whole, verified model serves, the new one if and only if its deployment is COMMITTED, and
what failed says why.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.deployment import lifecycle, slots
from firmware_bundles import manifest
from firmware_bundles.wire.messages import DeploymentState
from support import stored
from support.deployments import FAMILY, V1, V2, Device, deployed
from support.power import Cut, Power

S = DeploymentState


class Scenario(NamedTuple):
    """What becomes of the new model when nothing is cut."""

    name: str
    end: DeploymentState
    fails_self_test: bool = False
    fails_service: bool = False


SCENARIOS = (
    Scenario("good", S.COMMITTED),
    Scenario("fails-its-self-test", S.FAILED, fails_self_test=True),
    Scenario("does-not-serve", S.ROLLED_BACK, fails_service=True),
)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device that serves v1, at rest."""
    folder = tmp_path_factory.mktemp("template")

    async def make() -> None:
        device = await deployed(folder, V1)
        await device.updater.stop()
        device.state.close()

    asyncio.run(make())
    return folder


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit as low as it goes and a good deployment still fits."""
    monkeypatch.setitem(lifecycle.is_looping.__kwdefaults__ or {}, "persists_max", 12)


@pytest.fixture
def folders(tmp_path: Path, template: Path) -> Iterator[Folders]:
    """Copies of the template, one after the other."""
    made = Folders(tmp_path, template)
    yield made
    made.remove()


class Folders:
    """Gives out copies of a device's disk."""

    def __init__(self, place: Path, template: Path) -> None:
        self._place = place
        self._template = template
        self._count = 0

    def new(self) -> Path:
        """A disk on which v1 serves."""
        self.remove()
        self._count += 1
        return Path(shutil.copytree(self._template, self._place / f"{self._count}"))

    def remove(self) -> None:
        """Throw the last one away."""
        shutil.rmtree(self._place / f"{self._count}", ignore_errors=True)


async def live(
    folder: Path, scenario: Scenario, *, attempts_max: int, power: Power | None = None
) -> Device:
    """Run the device until its second deployment has ended, or the power goes. Raises Cut."""
    device = Device(folder)
    if scenario.fails_self_test:
        device.worker.failing_self_test = {"v2"}
    if scenario.fails_service:
        device.worker.failing_service = {"v2"}
    try:
        device.start()
        device.updater.offer(V2.order(2, attempts_max=attempts_max))
        ended = asyncio.ensure_future(device.ended(2))
        while not (await asyncio.wait({ended}, timeout=None if power is None else 0.01))[0]:
            if power is not None and power.is_off:
                ended.cancel()
                raise Cut
        await ended
    finally:
        await device.crash()
    return device


def cut(folder: Path, scenario: Scenario, at: int, *, loses: bool, attempts_max: int) -> bool:
    """Live until the power goes before operation `at`; False if the deployment ended first."""
    power = Power(folder, cut_at=at, loses=loses)
    with power.supplied(), suppress(Cut):
        asyncio.run(live(folder, scenario, attempts_max=attempts_max, power=power))
    return power.is_off


def check(folder: Path, scenario: Scenario, *, was_interrupted: bool) -> None:
    """The promises, held against the disk alone."""
    with closing(sqlite3.connect(folder / "state.db")) as database:
        ((text,),) = database.execute("SELECT record FROM deployment")
    record = msgspec.json.decode(text, type=lifecycle.Record)
    serving = slots.serving(folder / "slots", FAMILY)
    assert serving is not None
    facts = slots.read(serving)
    assert slots.is_good(serving)
    assert slots.has_pointer(folder / "slots", FAMILY)
    assert not lifecycle.is_open(record)
    assert (facts.version == "v2") is (record.state is S.COMMITTED)
    assert (record.fault is None) is (record.state is S.COMMITTED)
    if not was_interrupted or scenario.end is not S.COMMITTED:
        assert record.state in {scenario.end, S.FAILED, S.ROLLED_BACK}
    assert not list((folder / "chunks").glob("[0-9a-f]*"))


def finish(folder: Path, scenario: Scenario, *, attempts_max: int) -> None:
    """Let the device live to the end, with the power on; what was stored is not fetched again."""
    kept = stored_chunks(folder)
    device = asyncio.run(live(folder, scenario, attempts_max=attempts_max))
    assert not kept & device.line.asked
    check(folder, scenario, was_interrupted=True)


def stored_chunks(folder: Path) -> set[str]:
    """The chunks that the disk holds whole."""
    return stored.chunks_in(folder / "chunks", manifest.parse(V2.manifest).files)


def operations_of(folder: Path, scenario: Scenario) -> int:
    """How many operations the deployment takes without any cut."""
    power = Power(folder)
    with power.supplied():
        asyncio.run(live(folder, scenario, attempts_max=3))
    check(folder, scenario, was_interrupted=False)
    return power.operations


@pytest.mark.timeout(900)
@pytest.mark.parametrize("loses", [False, True], ids=["keeps", "loses-unsynced"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_a_cut_before_any_operation_leaves_a_device_that_finishes(
    folders: Folders,
    scenario: Scenario,
    loses: bool,  # noqa: FBT001 - a parameter
    is_long_run: bool,  # noqa: FBT001 - a fixture
) -> None:
    """Each operation in turn; a sample of them in the short run, all of them in the long one."""
    total = operations_of(folders.new(), scenario)
    assert total > 40
    step, first = (1, 0) if is_long_run else (8, os.getpid() % 8)
    for at in range(first, total, step):
        folder = folders.new()
        if not cut(folder, scenario, at, loses=loses, attempts_max=3):
            check(folder, scenario, was_interrupted=False)
            continue
        finish(folder, scenario, attempts_max=3)


@pytest.mark.timeout(900)
def test_any_number_of_cuts_ends_well(
    template: Path,
    tmp_path: Path,
    is_long_run: bool,  # noqa: FBT001 - a fixture
) -> None:
    """Cuts during the recovery from cuts, with attempts so few that giving up happens, too."""
    folders = Folders(tmp_path, template)

    @settings(max_examples=300 if is_long_run else 15)
    @given(
        scenario=st.sampled_from(SCENARIOS),
        attempts_max=st.integers(1, 2),
        cuts=st.lists(st.tuples(st.integers(0, 120), st.booleans()), min_size=2, max_size=6),
    )
    def cuts_end_well(scenario: Scenario, attempts_max: int, cuts: list[tuple[int, bool]]) -> None:
        folder = folders.new()
        for at, loses in cuts:
            cut(folder, scenario, at, loses=loses, attempts_max=attempts_max)
        finish(folder, scenario, attempts_max=attempts_max)

    cuts_end_well()
